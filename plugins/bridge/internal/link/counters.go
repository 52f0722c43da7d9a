package link

import (
	"strings"

	"github.com/vishvananda/netlink"
)

// Counters are the counters of all devices whose names have a prefix.
func Counters(prefix string) (map[string]netlink.LinkStatistics, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	m := map[string]netlink.LinkStatistics{}
	for _, l := range links {
		if a := l.Attrs(); strings.HasPrefix(a.Name, prefix) && a.Statistics != nil {
			m[a.Name] = *a.Statistics
		}
	}
	return m, nil
}
