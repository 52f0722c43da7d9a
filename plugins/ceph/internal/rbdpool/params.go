package rbdpool

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/limiquantix/limiquantix/proto/fault"
)

// Params say where a pool is and who we are there.
type Params struct {
	Monitors  []string // host:port
	Pool      string
	Namespace string // empty = the default one
	User      string // without "client."
	FSID      string // empty = any
	Conf      string // path of a ceph.conf to read first; empty = none
	Key       string // cephx key in base64; never to be printed
}

// String leaves the key out, so that no message or log ever holds it.
func (p Params) String() string {
	return fmt.Sprintf("pool %q, namespace %q, of monitors %s as client.%s", p.Pool, p.Namespace, strings.Join(p.Monitors, ","), p.User)
}

// GoString is String: %#v shows no key either.
func (p Params) GoString() string { return p.String() }

var (
	poolName  = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)
	namespace = regexp.MustCompile(`^[A-Za-z0-9_.-]{0,64}$`)
	userName  = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
	uuid      = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	hostName  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
)

// legacyPort is where monitors listen for protocol v1, which hypervisors take when no port is said.
const legacyPort = "6789"

// maxMonitors bounds the list; the largest recommended cluster has seven.
const maxMonitors = 32

// ParseParams reads a pool's parameters and secrets; everything wrong is named at once. confs are the files that parameter "conf" may name.
func ParseParams(params map[string]string, secrets map[string][]byte, confs []string) (Params, error) {
	var bad []fault.Violation
	wrong := func(field, format string, args ...any) {
		bad = append(bad, fault.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
	}
	p := Params{Pool: params["pool"], Namespace: params["namespace"], User: params["user"], FSID: params["fsid"], Conf: params["conf"]}
	for name := range params {
		if !slices.Contains([]string{"monitors", "pool", "namespace", "user", "fsid", "conf"}, name) {
			wrong("parameters."+name, "unknown: the ceph driver takes monitors, pool, namespace, user, fsid and conf")
		}
	}
	for name := range secrets {
		if name != "key" {
			wrong("secrets."+name, `unknown: the ceph driver takes "key"`)
		}
	}
	for m := range strings.FieldsFuncSeq(params["monitors"], func(r rune) bool { return r == ',' || r == ' ' }) {
		host, err := monitor(m)
		if err != nil {
			wrong("parameters.monitors", "%v", err)
		}
		p.Monitors = append(p.Monitors, host)
	}
	if len(p.Monitors) == 0 || len(p.Monitors) > maxMonitors {
		wrong("parameters.monitors", "1 to %d monitors as host:port, with commas between", maxMonitors)
	}
	if !poolName.MatchString(p.Pool) {
		wrong("parameters.pool", "required: the name of a Ceph pool (letters, digits, '_', '.', '-')")
	}
	if !namespace.MatchString(p.Namespace) {
		wrong("parameters.namespace", "letters, digits, '_', '.', '-', at most 64")
	}
	if p.User = strings.TrimPrefix(p.User, "client."); !userName.MatchString(p.User) {
		wrong("parameters.user", `required: the Ceph user, without "client."`)
	}
	if p.FSID != "" && !uuid.MatchString(p.FSID) {
		wrong("parameters.fsid", "not a UUID in lower case")
	}
	if p.Conf != "" && !slices.Contains(confs, p.Conf) {
		wrong("parameters.conf", "not one of the plugin's conf_files %v: add it to the plugin's configuration", confs)
	}
	p.Key = strings.TrimSpace(string(secrets["key"]))
	if !validKey(p.Key) {
		wrong("secrets.key", "required: a cephx key in base64, as `ceph auth get-key client.USER` prints it")
	}
	if len(bad) > 0 {
		return Params{}, fault.Invalid(bad...)
	}
	return p, nil
}

// monitor checks an address; a missing port is the default one.
func monitor(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), legacyPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("%q: the port is not 1 to 65535", s)
	}
	if _, err := netip.ParseAddr(host); err != nil && !hostName.MatchString(host) {
		return "", fmt.Errorf("%q is not host:port", s)
	}
	return net.JoinHostPort(host, port), nil
}

// validKey reports whether a key looks like cephx's: type, time, length and that many bytes.
func validKey(s string) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	return err == nil && len(b) > 12 && int(b[10])|int(b[11])<<8 == len(b)-12
}
