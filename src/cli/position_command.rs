//! `seckill position …` shows where the order writers are in the order log, and moves a position that an operator has
//! decided about. It works on the stores themselves, because no server may be able to start then.

use std::ops::Range;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::output::{self, Format};
use crate::app::{self, PositionPorts};
use crate::config::Config;
use crate::domain::operator::Subject;
use crate::domain::{Change, LogId, Part, Position};

#[derive(Debug, Subcommand)]
pub enum PositionCommand {
    /// List the stored position of every partition, beside the order log that there is now.
    Show,
    /// Move a position, and end the halt of its partition. The audit log keeps the reason.
    Move(Move),
}

#[derive(Debug, Args)]
pub struct Move {
    /// The partition's number, or `all`.
    part: String,
    /// The offset of the next record to write, or `start` for the oldest record of the log. When the order log's topic
    /// is gone, only 0.
    #[arg(long, value_name = "OFFSET|start")]
    to: String,
    /// Why; kept in the audit log.
    #[arg(long)]
    reason: String,
    /// Pass over records that may not have been written. Their orders then get no row.
    #[arg(long)]
    skip_records: bool,
}

/// One partition, as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    part: Part,
    #[serde(flatten)]
    position: Position,
    /// The first offset of the log; `None` when there is no log.
    log_begins: Option<i64>,
    /// The offset that the log's next record gets.
    log_ends: Option<i64>,
    /// Records that may still have to be written.
    behind: Option<i64>,
}

/// The order log that there is now, with the offsets of a partition.
type Log = Option<(LogId, Range<i64>)>;

impl PositionCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When a store cannot be reached, or the move is not one into the log, or it passes over records unasked.
    pub async fn run(self, config: &Config, format: Format) -> anyhow::Result<()> {
        app::wait_for_servers(config, app::Needed::Serving, output::talk).await?;
        let ports = app::open_positions(config).await?;
        let parts: Vec<Part> = config.shard_map()?.all_parts().collect();
        if let Self::Move(wanted) = &self {
            wanted.run(&ports, &parts).await?;
        }
        show(&ports, &parts, format).await
    }
}

async fn show(ports: &PositionPorts, parts: &[Part], format: Format) -> anyhow::Result<()> {
    let stored = ports.positions.positions().await;
    let mut shown = Vec::new();
    for part in parts {
        let Some(position) = stored.get(part).copied() else {
            output::talk(&format!("partition {}: its database cannot be reached", part.number()));
            continue;
        };
        let log = log(ports, *part).await?;
        let offsets = log.as_ref().map(|(_, offsets)| offsets);
        // What no process has compared yet is shown as it will be.
        let halt = log.as_ref().and_then(|(log, offsets)| position.halt_in(*log, offsets));
        let position = Position { halt, ..position };
        shown.push(Shown {
            part: *part,
            position,
            log_begins: offsets.map(|offsets| offsets.start),
            log_ends: offsets.map(|offsets| offsets.end),
            behind: offsets.map(|offsets| position.behind(offsets)),
        });
    }
    let number = |number: Option<i64>| number.map_or("-".to_owned(), |number| number.to_string());
    let row = |shown: &Shown| {
        let Position { next_offset, log, halt } = shown.position;
        vec![
            shown.part.number().to_string(),
            next_offset.to_string(),
            number(shown.log_begins),
            number(shown.log_ends),
            number(shown.behind),
            halt.map_or("-", |halt| halt.as_str()).to_owned(),
            log.map_or("-".to_owned(), |log| log.to_string()),
        ]
    };
    let head = ["PART", "NEXT_OFFSET", "LOG_BEGINS", "LOG_ENDS", "BEHIND", "HALT", "LOG"];
    let rows: Vec<_> = shown.iter().map(row).collect();
    output::print(format, &serde_json::to_value(&shown)?, &head, &rows);
    Ok(())
}

async fn log(ports: &PositionPorts, part: Part) -> anyhow::Result<Log> {
    let Some(log) = &ports.order_log else { return Ok(None) };
    let id = log.identity().await?.id;
    let offsets = log.offsets(&[part]).await?;
    Ok(Some((id, offsets.get(&part).cloned().context("the log does not have this partition")?)))
}

impl Move {
    /// Moves the position of one partition or of all. All moves are checked before the first is made.
    async fn run(&self, ports: &PositionPorts, parts: &[Part]) -> anyhow::Result<()> {
        ensure!((1..=200).contains(&self.reason.chars().count()), "--reason must have 1 to 200 characters");
        let stored = ports.positions.positions().await;
        let mut moves = Vec::new();
        for part in self.parts(parts)? {
            let number = part.number();
            let from = stored.get(&part).copied();
            let from = from.with_context(|| format!("partition {number}: its database cannot be reached"))?;
            let to =
                self.target(&log(ports, part).await?, from).with_context(|| format!("partition {number}"))?;
            moves.push((part, from, to));
        }
        for (part, from, to) in moves {
            let change = Change::by_hand("position_move", &self.reason);
            ports.audit_log.note(&change, &Subject::Position { part, from, to }).await?;
            ensure!(
                ports.positions.replace(part, &from, &to).await?,
                "partition {} moved on meanwhile: look again with `seckill position show`",
                part.number()
            );
            output::talk(&format!("partition {}: {} -> {}", part.number(), from.next_offset, to.next_offset));
        }
        Ok(())
    }

    fn parts(&self, all: &[Part]) -> anyhow::Result<Vec<Part>> {
        if self.part == "all" {
            return Ok(all.to_vec());
        }
        let known = self.part.parse().ok().map(Part::new).filter(|part| all.contains(part));
        let known = known.with_context(|| format!("PART must be `all` or from 0 to {}", all.len() - 1))?;
        Ok(vec![known])
    }

    /// Answers the position after the move.
    fn target(&self, log: &Log, from: Position) -> anyhow::Result<Position> {
        let Some((id, offsets)) = log else {
            ensure!(self.to == "0", "the order log's topic is gone, so a position can only be moved to 0");
            return Ok(Position { next_offset: 0, log: None, halt: None });
        };
        let next_offset = match self.to.as_str() {
            "start" => offsets.start,
            offset => offset.parse().context("--to must be an offset or `start`")?,
        };
        ensure!(
            offsets.start <= next_offset && next_offset <= offsets.end,
            "the log has the offsets from {} to {}",
            offsets.start,
            offsets.end
        );
        let is_known = from.halt_in(*id, offsets).is_none();
        let first = if is_known { from.next_offset } else { offsets.start };
        ensure!(
            self.skip_records || next_offset <= first,
            "this passes over {} records that may not have been written: their orders would get no row. Move to {first}, \
             or say --skip-records",
            next_offset - first
        );
        Ok(Position { next_offset, log: Some(*id), halt: None })
    }
}
