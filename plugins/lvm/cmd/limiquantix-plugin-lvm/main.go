// Command limiquantix-plugin-lvm is the storage driver for pools that are LVM volume groups or thin pools of a node. Its agent runs it.
package main

import (
	"runtime/debug"

	"github.com/limiquantix/limiquantix/plugins/lvm/internal/driver"
	"github.com/limiquantix/limiquantix/sdk"
)

// Set by the build.
var version, commit = "", ""

func main() {
	debug.SetGCPercent(50) // a plugin is mostly idle: memory counts for more than collection time
	d := driver.New()
	d.BasePlugin = sdk.NewBasePlugin(sdk.Info{Name: "lvm", Version: version, Commit: commit, Vendor: "limiquantix", Schema: driver.Schema}, d.ConfigureDriver)
	sdk.Serve(sdk.Plugin{Base: d.BasePlugin, Storage: d})
}
