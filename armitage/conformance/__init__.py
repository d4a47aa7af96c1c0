"""The Remote Execution API conformance suite, which runs against any server."""
