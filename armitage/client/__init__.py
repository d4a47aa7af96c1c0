"""A typed client of the Remote Execution API, for the CLI, the conformance suite and the tests."""
