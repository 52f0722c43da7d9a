package sdk

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Info says who a plugin is. Kinds are not listed: they follow from the services that Serve is given.
type Info struct {
	Name    string // a-z, 0-9, '-'; as in the manifest
	Version string // semver; "0.0.0-dev" when empty
	Vendor  string // who makes it; may be empty
	Commit  string // source revision; the binary's build information when empty
	Schema  string // JSON Schema of the configuration; "a JSON object without properties" when empty
}

// emptySchema describes a plugin without configuration.
const emptySchema = `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","additionalProperties":false}`

func (i Info) withDefaults() Info {
	if i.Version == "" {
		i.Version = "0.0.0-dev"
	}
	if i.Schema == "" {
		i.Schema = emptySchema
	}
	if i.Commit == "" {
		if b, ok := debug.ReadBuildInfo(); ok {
			for _, s := range b.Settings {
				if s.Key == "vcs.revision" {
					i.Commit = s.Value
				}
			}
		}
	}
	return i
}

// Description is what a plugin binary prints as JSON for --plugin-info, for tools that write its manifest.
type Description struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	Kinds   []string `json:"kinds"`
	Vendor  string   `json:"vendor,omitempty"`
	Commit  string   `json:"commit,omitempty"`
}

// describe is the Description of a plugin.
func describe(r *driverv1.GetPluginInfoResponse) Description {
	d := Description{Name: r.GetName(), Version: r.GetVersion(), Vendor: r.GetVendor(), Commit: r.GetCommit()}
	for _, k := range r.GetKinds() {
		d.Kinds = append(d.Kinds, KindName(k))
	}
	return d
}

// KindName is a kind as manifests and people write it: "compute", "storage", "network".
func KindName(k driverv1.DriverKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "DRIVER_KIND_"))
}

// ParseKind reads what KindName wrote.
func ParseKind(s string) (driverv1.DriverKind, error) {
	v, ok := driverv1.DriverKind_value["DRIVER_KIND_"+strings.ToUpper(s)]
	if !ok || v == 0 || strings.ToLower(s) != s {
		return 0, fmt.Errorf("unknown kind %q: one of compute, storage, network", s)
	}
	return driverv1.DriverKind(v), nil
}

// answerFlags serves the two questions that a plugin binary answers when run by hand. It reports whether args asked one.
func answerFlags(w io.Writer, args []string, info *driverv1.GetPluginInfoResponse) bool {
	if len(args) != 1 {
		return false
	}
	switch args[0] {
	case "--version", "-version":
		commit := ""
		if info.GetCommit() != "" {
			commit = " (" + info.GetCommit() + ")"
		}
		_, _ = fmt.Fprintf(w, "limiquantix-plugin-%s %s%s\n", info.GetName(), info.GetVersion(), commit)
		return true
	case "--plugin-info":
		_ = json.NewEncoder(w).Encode(describe(info))
		return true
	}
	return false
}
