//! The instants of writing between which a crash makes a difference.

/// An instant, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// The temporary folder is there, empty. On rank 0 alone, as all instants but those of files.
    TempMade,
    /// One more file has its content, which may not be on the disk (once per file that the rank writes, the manifest
    /// included).
    FileFilled,
    /// One more file is on the disk (once per file that the rank writes but the manifest).
    FileWritten,
    /// The files of all ranks are on the disk, and no manifest.
    AllWritten,
    /// The manifest is on the disk.
    ManifestWritten,
    /// The temporary folder is complete and on the disk.
    TempSynced,
    /// Only when the step exists with other content: its folder has been moved aside, or removed if damaged.
    OldMovedAside,
    /// The folder has its proper name.
    Renamed,
    /// The new name is on the disk.
    RootSynced,
    /// The new content of `latest` is on the disk, under another name.
    PointerWritten,
    /// `latest` names the new folder.
    PointerPlaced,
    /// The checkpoint is written.
    Done,
    /// It is marked as the best, if it is.
    BestMarked,
    /// One more old checkpoint has lost its name, and not its content (once per removed checkpoint).
    Unnamed,
    /// Old checkpoints are removed.
    Pruned,
}

impl Point {
    /// All points, in order.
    pub const ALL: [Point; 15] = [
        Point::TempMade,
        Point::FileFilled,
        Point::FileWritten,
        Point::AllWritten,
        Point::ManifestWritten,
        Point::TempSynced,
        Point::OldMovedAside,
        Point::Renamed,
        Point::RootSynced,
        Point::PointerWritten,
        Point::PointerPlaced,
        Point::Done,
        Point::BestMarked,
        Point::Unnamed,
        Point::Pruned,
    ];

    /// Its name in `POLYTASK_FAULT`.
    pub fn name(self) -> &'static str {
        match self {
            Point::TempMade => "temp_made",
            Point::FileFilled => "file_filled",
            Point::FileWritten => "file_written",
            Point::AllWritten => "all_written",
            Point::ManifestWritten => "manifest_written",
            Point::TempSynced => "temp_synced",
            Point::OldMovedAside => "old_moved_aside",
            Point::Renamed => "renamed",
            Point::RootSynced => "root_synced",
            Point::PointerWritten => "pointer_written",
            Point::PointerPlaced => "pointer_placed",
            Point::Done => "done",
            Point::BestMarked => "best_marked",
            Point::Unnamed => "unnamed",
            Point::Pruned => "pruned",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_points_are_listed_in_order_under_different_names() {
        assert!(Point::ALL.is_sorted_by(|a, b| a < b));
        assert_eq!(Point::ALL[14] as usize, 14, "the last one is there, and so are those between");
        let mut names = Point::ALL.map(Point::name);
        names.sort();
        assert!(names.is_sorted_by(|a, b| a < b));
    }
}
