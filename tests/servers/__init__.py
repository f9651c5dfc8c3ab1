"""Real database servers for tests: started when the first test needs one, gone when the tests are over."""
