// Command limiquantix-plugin-nfs is the storage driver for pools on NFS servers. Its agent runs it.
package main

import (
	"os"
	"runtime/debug"

	"github.com/limiquantix/limiquantix/plugins/nfs/internal/driver"
	"github.com/limiquantix/limiquantix/plugins/nfs/internal/mount"
	"github.com/limiquantix/limiquantix/plugins/nfs/internal/worker"
	"github.com/limiquantix/limiquantix/sdk"
)

// Set by the build.
var version, commit = "", ""

func main() {
	if code, is := worker.Main(os.Args); is {
		os.Exit(code)
	}
	debug.SetGCPercent(50) // a plugin is mostly idle: memory counts for more than collection time
	d := driver.New(mount.Kernel{})
	d.BasePlugin = sdk.NewBasePlugin(sdk.Info{Name: "nfs", Version: version, Commit: commit, Vendor: "limiquantix", Schema: driver.Schema}, d.ConfigureDriver)
	sdk.Serve(sdk.Plugin{Base: d.BasePlugin, Storage: d, OnExit: func() { d.Close(sdk.DefaultGrace) }})
}
