package agent

import (
	"cmp"
	"sync"

	"github.com/limiquantix/limiquantix/controller/internal/state"
)

// portFacts is what networks and groups need to know of a port. A network of thousands of ports is looked at again with each change of one of them: only that one is decoded.
type portFacts struct {
	revision  int64
	mac, node string
	hostname  string   // its own; empty = its VM's name
	addresses []string // that it holds
	member    []string // that it is member of its groups with
}

// factBook keeps the facts of ports, each as of a revision of its record.
type factBook struct {
	mu    sync.Mutex
	ports map[string]portFacts
}

func newFactBook() *factBook { return &factBook{ports: map[string]portFacts{}} }

func (b *factBook) of(row *state.Row) portFacts {
	b.mu.Lock()
	f, known := b.ports[row.ID]
	b.mu.Unlock()
	if known && f.revision == row.Revision {
		return f
	}
	p := row.Port().GetPort()
	f = portFacts{
		revision: row.Revision, mac: cmp.Or(p.GetStatus().GetMac(), p.GetSpec().GetMac()), node: p.GetStatus().GetBinding().GetNodeId(),
		hostname: p.GetSpec().GetHostname(), addresses: p.GetStatus().GetIpAddresses(), member: memberAddresses(p),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ports[row.ID].revision < row.Revision {
		b.ports[row.ID] = f
	}
	return f
}

func (b *factBook) forget(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.ports, id)
}
