//! Changes bytes as a broken client, a broken network or an attacker changes a good input.

use rand::Rng;
use rand::rngs::StdRng;

use crate::grammar::{INTEGERS, one_of, text_of};

/// Makes one to six changes to an input. `other` is an input with which it may be spliced.
pub fn mutated(mut input: Vec<u8>, other: &[u8], rng: &mut StdRng) -> Vec<u8> {
    for _ in 0..rng.random_range(1..=6) {
        change(&mut input, other, rng);
        if rng.random_bool(0.4) {
            break;
        }
    }
    input
}

fn change(input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    let at = rng.random_range(0..=input.len());
    let chunk = chunk_of(input, rng);
    match rng.random_range(0..14) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << rng.random_range(0..8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = rng.random();
            }
        }
        2 => {
            let noise: Vec<u8> = (0..rng.random_range(1..6)).map(|_| rng.random()).collect();
            input.splice(at..at, noise);
        }
        3 => drop(input.drain(chunk)),
        4 => {
            let copy = input[chunk].to_vec();
            input.splice(at..at, copy);
        }
        5 => {
            let from = rng.random_range(0..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        6 => {
            let theirs = chunk_of(other, rng);
            input.splice(chunk, other[theirs].iter().copied());
        }
        7 | 8 => replace_number(input, rng),
        9 => drop(input.splice(at..at, text_of(rng).into_bytes())),
        10 => drop(input.splice(chunk, text_of(rng).into_bytes())),
        11 => nest(input, at, rng),
        12 => repeat_line(input, rng),
        _ => {
            for byte in &mut input[chunk] {
                *byte = if byte.is_ascii_lowercase() {
                    byte.to_ascii_uppercase()
                } else {
                    byte.to_ascii_lowercase()
                };
            }
        }
    }
}

fn chunk_of(input: &[u8], rng: &mut StdRng) -> std::ops::Range<usize> {
    let from = rng.random_range(0..=input.len());
    let length_max = (input.len() - from).min(if rng.random_bool(0.8) { 16 } else { 256 });
    from..from + rng.random_range(0..=length_max)
}

/// Replaces a number by an interesting one.
fn replace_number(input: &mut Vec<u8>, rng: &mut StdRng) {
    let is_start = |at: usize| input[at].is_ascii_digit() && (at == 0 || !input[at - 1].is_ascii_digit());
    let starts: Vec<usize> = (0..input.len()).filter(|&at| is_start(at)).collect();
    if starts.is_empty() {
        return;
    }
    let from = starts[rng.random_range(0..starts.len())];
    let length = input[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    input.splice(from..from + length, one_of(INTEGERS, rng).bytes());
}

fn nest(input: &mut Vec<u8>, at: usize, rng: &mut StdRng) {
    let (open, close) = one_of(&[("[", "]"), ("{\"a\":", "}"), ("(", ")"), ("{a=", "}")], rng);
    let depth = one_of(&[1, 2, 20, 126, 127, 128, 129, 400], rng);
    let is_closed = rng.random_bool(0.7);
    let middle = if is_closed { "1" } else { "" };
    let close = if is_closed { close.repeat(depth) } else { String::new() };
    input.splice(at..at, format!("{}{middle}{close}", open.repeat(depth)).into_bytes());
}

fn repeat_line(input: &mut Vec<u8>, rng: &mut StdRng) {
    let lines: Vec<&[u8]> = input.split_inclusive(|byte| *byte == b'\n').collect();
    if lines.is_empty() {
        return;
    }
    let line = lines[rng.random_range(0..lines.len())].to_vec();
    let at: usize = lines.iter().take(rng.random_range(0..=lines.len())).map(|line| line.len()).sum();
    input.splice(at..at, line);
}
