#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dam_prelude::fuzz::data(bytes));
