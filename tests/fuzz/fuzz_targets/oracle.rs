#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    concordat_fuzz::oracle::run(data);
});
