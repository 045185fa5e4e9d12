//! Jupyter's sockets: the proxy in front of them and the server behind them.

mod clients;
mod proxy;
mod replies;
pub mod server;
mod worker;
mod zmtp;
