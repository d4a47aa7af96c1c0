"""Actions that are WebAssembly programs."""
