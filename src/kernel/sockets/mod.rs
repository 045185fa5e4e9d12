//! Jupyter's sockets: the proxy in front of them and the server behind them.

mod proxy;
pub mod server;
