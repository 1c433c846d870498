//! Logs the tokens of a run, one line a step on standard input (`text code code ...`, - for a step without codes), with the
//! statements of seed 004. `cargo run --release < tokens.txt > moshi_debug.log`; `--plain` leaves the colours out.

use std::io::BufRead;
use tracing::info;

fn main() {
    let ansi = !std::env::args().any(|a| a == "--plain");
    tracing_subscriber::fmt().with_ansi(ansi).init();
    info!("loading MOSHI model");
    for (step_idx, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.unwrap();
        let mut words = line.split_whitespace();
        let text_token: Option<u32> = words.next().and_then(|w| w.parse().ok());
        // What moshi-core's last_audio_tokens returns: nothing while the delays are collected.
        let audio_tokens: Vec<Vec<u32>> = vec![words.map(|w| w.parse().unwrap_or(u32::MAX)).collect()];
        if !audio_tokens[0].is_empty() {
            info!("MOSHI_DEBUG: Step {} audio tokens: {:?}",
                  step_idx, &audio_tokens[0]);
        }
        if let Some(text_token) = text_token {
            info!("MOSHI_DEBUG: Step {} text token: {}",
                  step_idx, text_token);
        }
    }
}
