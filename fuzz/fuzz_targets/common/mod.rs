//! What the targets share.
#![allow(dead_code)]

use polytask::data::DataError;
use polytask::data::table::{Role, Table, Wanted};

/// Up to eight columns, wanted as each role in turn.
pub fn wanted(names: &[String]) -> Vec<Vec<Wanted>> {
    let roles = [Role::Number, Role::Category, Role::Bits, Role::Text, Role::Image];
    let want = |role| names.iter().take(8).map(|name| Wanted { name: name.clone(), role }).collect();
    // All columns together, then each alone: one that cannot be read hides those after it.
    let alone = names.iter().take(8).flat_map(|n| roles.map(|role| vec![Wanted { name: n.clone(), role }]));
    roles.map(want).into_iter().chain(alone).collect()
}

/// Checks that a table agrees with itself, and that an error says something.
pub fn check(result: Result<Table, DataError>) {
    match result {
        Ok(table) => {
            assert!(table.n_rows > 0 || table.columns.is_empty());
            for (name, cells) in &table.columns {
                assert_eq!(cells.n_rows(), table.n_rows, "column {name}");
            }
            for origin in &table.origins {
                assert!(origin.lines.is_empty() || origin.lines.len() == table.n_rows);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
