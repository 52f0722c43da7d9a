// Command limiquantix-plugin-ceph is the storage driver for pools of Ceph clusters (RBD). Its agent runs it.
package main

// #include <malloc.h>
import "C"

import (
	"os"
	"runtime/debug"
	"strings"

	"github.com/limiquantix/limiquantix/plugins/ceph/internal/driver"
	"github.com/limiquantix/limiquantix/sdk"
)

// Set by the build.
var version, commit = "", ""

func main() {
	debug.SetGCPercent(50)         // a plugin is mostly idle: memory counts for more than collection time
	debug.SetMemoryLimit(32 << 20) // of Go's part: imports make garbage faster than it would else be collected
	C.mallopt(C.M_ARENA_MAX, 2)    // the libraries' many threads would each keep memory of their own
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "CEPH_") { // the libraries read these; pools say all themselves
			_ = os.Unsetenv(name) // it was there
		}
	}
	d := driver.New()
	d.BasePlugin = sdk.NewBasePlugin(sdk.Info{Name: "ceph", Version: version, Commit: commit, Vendor: "limiquantix", Schema: driver.Schema}, d.ConfigureDriver)
	sdk.Serve(sdk.Plugin{Base: d.BasePlugin, Storage: d, OnExit: func() { d.Close(sdk.DefaultGrace) }})
}
