//! stub

mod postgres;
use crate::failure::Failure;
pub use postgres::{StopMode, TempPostgres};
use std::process::ExitCode;
/// args
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Seconds
    #[arg(long, default_value = "20")]
    pub seconds: u64,
}
/// run
pub async fn run(_: DemoArgs) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
