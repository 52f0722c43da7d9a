// Command limiquantix-plugin-ovs is the network driver for Open vSwitch. Its agent runs it.
package main

import (
	"runtime/debug"

	"github.com/limiquantix/limiquantix/plugins/ovs/internal/driver"
	"github.com/limiquantix/limiquantix/sdk"
)

// Set by the build.
var version, commit = "", ""

func main() {
	debug.SetGCPercent(50) // a plugin is mostly idle: memory counts for more than collection time
	d := driver.New()
	d.BasePlugin = sdk.NewBasePlugin(sdk.Info{Name: "ovs", Version: version, Commit: commit, Vendor: "limiquantix", Schema: driver.Schema}, d.ConfigureDriver)
	sdk.Serve(sdk.Plugin{Base: d.BasePlugin, Network: d, OnExit: d.Close})
}
