//! The authority and its endpoint together, in process.

mod accounts;
mod challenges;
mod clients;
mod secrets;
mod support;
mod tokens;
