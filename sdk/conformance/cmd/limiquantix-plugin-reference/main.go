// Command limiquantix-plugin-reference is the reference driver: all three kinds, without any real backend.
package main

import (
	"github.com/limiquantix/limiquantix/sdk"
	"github.com/limiquantix/limiquantix/sdk/conformance/reference"
)

// version is set by the linker.
var version = "0.0.0-dev"

func main() { sdk.Serve(reference.New(version)) }
