// Command limiquantix-plugin-kvm is the compute driver for KVM through libvirt. Its agent runs it.
package main

import (
	"runtime/debug"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/driver"
	"github.com/limiquantix/limiquantix/sdk"
)

// Set by the build.
var version, commit = "", ""

func main() {
	debug.SetGCPercent(40) // a plugin is mostly idle: memory counts for more than collection time
	d := driver.New()
	d.BasePlugin = sdk.NewBasePlugin(sdk.Info{Name: "kvm", Version: version, Commit: commit, Vendor: "limiquantix", Schema: driver.Schema}, d.ConfigureDriver)
	sdk.Serve(sdk.Plugin{Base: d.BasePlugin, Compute: d, OnExit: d.Close})
}
