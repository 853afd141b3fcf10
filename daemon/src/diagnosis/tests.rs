//! Rules on facts that are made up.
