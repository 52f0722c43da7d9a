// Package mount mounts exports of NFS servers: what a pool's parameters may say, mount(8) and umount(8) by argv in processes that can be killed, and what the
// kernel says is mounted. Nothing here touches the mounted file system.
package mount

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/limiquantix/limiquantix/proto/fault"
)

// Params say what to mount, and how.
type Params struct {
	Server  string // name or address
	Export  string // absolute path
	Version string // "3", "4.1" or "4.2"
	Options []string
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)

// number bounds the value of an option.
type number struct{ min, max int }

// allowed are the options that a pool may set. All others are refused: some of them weaken what the driver relies on.
var allowed = map[string]any{
	"hard": nil, "soft": nil, "softerr": nil, "nolock": nil, "noatime": nil, "noresvport": nil,
	"proto": []string{"tcp", "tcp6", "rdma"}, "mountproto": []string{"tcp", "tcp6"}, "sec": []string{"sys", "krb5", "krb5i", "krb5p"},
	"timeo": number{1, 6000}, "retrans": number{0, 100}, "nconnect": number{1, 16}, "rsize": number{4096, 1 << 20}, "wsize": number{4096, 1 << 20},
	"port": number{1, 65535}, "mountport": number{1, 65535},
}

// fixed are always set. Directories are looked up anew each time, since other nodes make volumes in them; nothing in a pool is ever a program or a device.
var fixed = []string{"nosuid", "nodev", "noexec", "acdirmin=0", "acdirmax=0", "retry=0"}

// Parse reads a pool's parameters; those named in others are the caller's.
func Parse(params map[string]string, others ...string) (Params, error) {
	p := Params{Server: params["server"], Export: params["export"], Version: cmp.Or(params["version"], "4.2")}
	var bad []fault.Violation
	refuse := func(name, format string, args ...any) {
		bad = append(bad, fault.Violation{Field: "parameters." + name, Description: fmt.Sprintf(format, args...)})
	}
	for name := range params {
		if !slices.Contains([]string{"server", "export", "version", "options"}, name) && !slices.Contains(others, name) {
			refuse(name, "unknown: the NFS driver takes server, export, version, options, %s", strings.Join(others, ", "))
		}
	}
	if addr, err := netip.ParseAddr(p.Server); err == nil {
		if addr.Zone() != "" {
			refuse("server", "an address with a zone is no server's")
		} else if addr.Is6() {
			p.Server = "[" + addr.String() + "]"
		}
	} else if !hostName.MatchString(p.Server) {
		refuse("server", "%q is neither a host's name nor an address", p.Server)
	}
	if !path.IsAbs(p.Export) || path.Clean(p.Export) != p.Export || strings.ContainsFunc(p.Export, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		refuse("export", "%q must be an absolute path without '.', '..', blanks and trailing '/'", p.Export)
	}
	if !slices.Contains([]string{"3", "4.1", "4.2"}, p.Version) {
		refuse("version", "%q is none of 3, 4.1, 4.2", p.Version)
	}
	for _, o := range strings.FieldsFunc(params["options"], func(r rune) bool { return r == ',' }) {
		if why := checkOption(o, p.Version); why != "" {
			refuse("options", "%s", why)
		}
		p.Options = append(p.Options, o)
	}
	slices.SortFunc(bad, func(a, b fault.Violation) int { return cmp.Compare(a.Field, b.Field) })
	if bad != nil {
		return Params{}, fault.Invalid(bad...)
	}
	return p, nil
}

// checkOption says why an option is refused; empty = it may be set.
func checkOption(option, version string) string {
	name, value, has := strings.Cut(option, "=")
	rule, known := allowed[name]
	switch rule := rule.(type) {
	case nil:
		if !known || has {
			return fmt.Sprintf("%q is none of the options that may be set", option)
		}
		if name == "nolock" && version != "3" {
			return "nolock is of version 3 alone"
		}
	case []string:
		if !slices.Contains(rule, value) {
			return fmt.Sprintf("%s must be one of %s", name, strings.Join(rule, ", "))
		}
	case number:
		if n, err := strconv.Atoi(value); err != nil || n < rule.min || n > rule.max {
			return fmt.Sprintf("%s must be %d to %d", name, rule.min, rule.max)
		}
	}
	return ""
}

// Source is what the kernel calls the device.
func (p Params) Source() string { return p.Server + ":" + p.Export }

// argument is the list of options for mount -o.
func (p Params) argument() string {
	return strings.Join(append(append([]string{"vers=" + p.Version}, fixed...), p.Options...), ",")
}

// Equal says whether two pools' parameters ask for the same mount.
func (p Params) Equal(o Params) bool {
	return p.Server == o.Server && p.Export == o.Export && p.Version == o.Version && slices.Equal(p.Options, o.Options)
}
