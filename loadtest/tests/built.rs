#[test] fn built() {}
