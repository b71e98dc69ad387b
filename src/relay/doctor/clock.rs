//! The relay's clock and PostgreSQL's: due times, backoffs and lag compare the two.

use tokio_postgres::Client;

use super::super::finding::Finding;
use crate::failure::Code;
use crate::postgres::Error;

/// Clocks that differ by less are as equal as clocks are, in microseconds.
const TOLERANCE: i64 = 2_000_000;

/// Compares the clocks. The question's way there and back is no difference.
pub(super) async fn examine(client: &Client, now: impl Fn() -> i64) -> Result<Vec<Finding>, Error> {
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
    let asked = now();
    let theirs: i64 = client.query_one(sql, &[]).await?.get(0);
    Ok(judge(asked, theirs, now()).into_iter().collect())
}

/// All in microseconds: what the clock here said before and after that of the server was read.
fn judge(before: i64, theirs: i64, after: i64) -> Option<Finding> {
    let (micros, side) = match theirs {
        theirs if theirs > after => (theirs - after, "ahead of"),
        theirs => (before - theirs, "behind"),
    };
    if micros < TOLERANCE {
        return None;
    }
    let (whole, tenths) = (micros / 1_000_000, micros / 100_000 % 10);
    let observed = format!(
        "PostgreSQL's clock is {whole}.{tenths} s {side} the clock here: scheduled events go at the \
         wrong time, and lag is shown wrong"
    );
    let fix = "timedatectl set-ntp true -- or chronyc makestep, on the machine that is wrong";
    let required = "clocks that differ by less than 2 s";
    Some(Finding::error(Code::ClockSkew, "clocks", observed, required, fix).warning())
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    #[test]
    fn the_way_of_the_question_is_no_difference() {
        // It took a minute, and the server read its clock anywhere within it.
        for theirs in [0, 30 * S, 60 * S, 61 * S, -S] {
            assert_eq!(judge(0, theirs, 60 * S), None, "{theirs}");
        }
        let text = |theirs| judge(0, theirs, S).unwrap().observed;
        assert!(text(4 * S + S / 2).contains("3.5 s ahead of"));
        assert!(text(-10 * S).contains("10.0 s behind"));
    }
}
