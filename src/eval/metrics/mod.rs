//! Metrics as mergeable meters.
