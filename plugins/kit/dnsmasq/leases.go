package dnsmasq

import (
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Lease is an address that a host took.
type Lease struct {
	MAC     string // empty for IPv6: its leases name clients otherwise
	Address netip.Addr
	Expires time.Time
}

// Leases reads what a directory's dnsmasq has leased out.
func Leases(dir string) (all []Lease) {
	b, err := os.ReadFile(filepath.Join(dir, leasesFile)) //nolint:gosec // our own directory
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] == "duid" {
			continue
		}
		a, err := netip.ParseAddr(f[2])
		if err != nil {
			continue
		}
		l := Lease{Address: a}
		if mac.MatchString(f[1]) {
			l.MAC = f[1]
		}
		if t, err := strconv.ParseInt(f[0], 10, 64); err == nil && t > 0 {
			l.Expires = time.Unix(t, 0)
		}
		all = append(all, l)
	}
	return all
}
