#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gitstead::dialect::fuzz::lines(input));
