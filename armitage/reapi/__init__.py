"""The Remote Execution API: the wire on one side, plain values on the other."""
