#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stockaj_gateway_fuzz::query::check(data));
