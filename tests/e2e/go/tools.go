//go:build tools

// Keeps h2spec among the pinned modules.
package main

import _ "github.com/summerwind/h2spec/cmd/h2spec"
