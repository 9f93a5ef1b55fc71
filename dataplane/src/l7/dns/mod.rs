//! DNS inspection: queries are decided by name, and answers teach names' addresses.

pub mod learned;
