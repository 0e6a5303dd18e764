#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gitstead::protocol::fuzz::pkt_line(input));
