package vswitch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/ovn-kubernetes/libovsdb/cache"
	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// ErrAway says that the database cannot be reached.
var ErrAway = errors.New("Open vSwitch's database cannot be reached") //nolint:staticcheck // a name

// Session is one connection with the database. When it is lost, a new session is made.
type Session struct {
	c    client.Client
	life context.Context // ends when the connection is lost, or the session closed
	end  context.CancelFunc

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	view    *View         // of the copy as it is; nil when it changed since
	changes int           // of the copy, counted
}

// Open connects and reads the tables. changed is called after each change of them, and must not block.
func Open(ctx context.Context, endpoint string, changed func()) (*Session, error) {
	m, err := model.NewClientDBModel("Open_vSwitch", map[string]model.Model{"Open_vSwitch": &Root{}, "Bridge": &Bridge{}, "Port": &Port{}, "Interface": &Interface{}})
	if err != nil {
		return nil, err
	}
	quiet := logr.Discard()
	c, err := client.NewOVSDBClient(m, client.WithEndpoint(endpoint), client.WithLogger(&quiet))
	if err != nil {
		return nil, err
	}
	s := &Session{c: c, changed: make(chan struct{})}
	s.life, s.end = context.WithCancel(context.Background())
	// libovsdb tells a loss once, to whoever waits at that moment, and to nobody when nobody does; Connected goes on saying yes. So somebody waits from before there is a connection.
	go func() {
		defer s.end()
		select {
		case <-c.DisconnectNotify():
		case <-s.life.Done():
		}
	}()
	if err := c.Connect(ctx); err != nil {
		s.end()
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	wake := func() {
		s.mu.Lock()
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
		s.forget()
		changed()
	}
	c.Cache().AddEventHandler(&cache.EventHandlerFuncs{
		AddFunc:    func(string, model.Model) { wake() },
		UpdateFunc: func(string, model.Model, model.Model) { wake() },
		DeleteFunc: func(string, model.Model) { wake() },
	})
	// Columns are named: of an update with a column that the model has not, libovsdb takes nothing at all.
	r, b, p, i := &Root{}, &Bridge{}, &Port{}, &Interface{}
	if _, err := c.Monitor(ctx, c.NewMonitor(
		client.WithTable(r, &r.Bridges, &r.NextConfig, &r.CurrentConfig, &r.Datapaths, &r.Version),
		client.WithTable(b, &b.Name, &b.Datapath, &b.FailMode, &b.Protocols, &b.Controller, &b.Ports, &b.ExternalIDs, &b.OtherConfig),
		client.WithTable(p, &p.Name, &p.Interfaces, &p.Tag, &p.ExternalIDs),
		client.WithTable(i, &i.Name, &i.Type, &i.Options, &i.OfPort, &i.LinkState, &i.Error, &i.MAC, &i.MTURequest, &i.ExternalIDs))); err != nil {
		s.Close()
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	return s, nil
}

// Lost is closed when the connection is gone.
func (s *Session) Lost() <-chan struct{} { return s.life.Done() }

// Close ends the session.
func (s *Session) Close() {
	s.c.Close()
	s.end()
}

// list reads rows of the copy, which is worth nothing once the connection is gone: libovsdb would wait for ever for it to be whole again.
func (s *Session) list(rows any) error {
	err := s.c.List(s.life, rows)
	if s.life.Err() != nil {
		return ErrAway
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	return nil
}

// Root is the row of Open_vSwitch.
func (s *Session) Root() (Root, error) {
	var rows []Root
	if err := s.list(&rows); err != nil {
		return Root{}, err
	}
	if len(rows) != 1 {
		return Root{}, errors.New("Open vSwitch's database is not initialised: run ovs-vsctl init") //nolint:staticcheck // a name
	}
	return rows[0], nil
}

// Bridges are all bridges by name.
func (s *Session) Bridges() (map[string]*Bridge, error) {
	var rows []*Bridge
	if err := s.list(&rows); err != nil {
		return nil, err
	}
	return by(rows, func(b *Bridge) string { return b.Name }), nil
}

// Ports are all ports by UUID.
func (s *Session) Ports() (map[string]*Port, error) {
	var rows []*Port
	if err := s.list(&rows); err != nil {
		return nil, err
	}
	return by(rows, func(p *Port) string { return p.UUID }), nil
}

// Interfaces are all interfaces by UUID.
func (s *Session) Interfaces() (map[string]*Interface, error) {
	var rows []*Interface
	if err := s.list(&rows); err != nil {
		return nil, err
	}
	return by(rows, func(i *Interface) string { return i.UUID }), nil
}

func by[T any](rows []T, key func(T) string) map[string]T {
	m := make(map[string]T, len(rows))
	for _, r := range rows {
		m[key(r)] = r
	}
	return m
}

// Until waits until ok is true, which is looked at after each change.
func (s *Session) Until(ctx context.Context, ok func() (bool, error)) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if done, err := ok(); done || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-s.Lost():
			return ErrAway
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// transact runs operations as one transaction and, when wait is set, waits until the switch has done what it says.
func (s *Session) transact(ctx context.Context, wait bool, ops ...ovsdb.Operation) error {
	defer s.forget() // that it was told is told later than it is so
	root, err := s.Root()
	if err != nil {
		return err
	}
	if wait {
		next, err := s.c.Where(&root).Mutate(&root, model.Mutation{Field: &root.NextConfig, Mutator: ovsdb.MutateOperationAdd, Value: 1})
		if err != nil {
			return err
		}
		ops = append(ops, next...)
		ops = append(ops, ovsdb.Operation{Op: ovsdb.OperationSelect, Table: "Open_vSwitch", Columns: []string{"next_cfg"}, Where: []ovsdb.Condition{}})
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	results, err := s.c.Transact(ctx, ops...)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	if _, err := ovsdb.CheckOperationResults(results, ops); err != nil {
		for _, r := range results {
			if r.Error != "" {
				return fmt.Errorf("the database refuses: %s: %s", r.Error, r.Details)
			}
		}
		return err
	}
	if !wait {
		return nil
	}
	want := root.NextConfig + 1
	if rows := results[len(ops)-1].Rows; len(rows) == 1 {
		if n, ok := rows[0]["next_cfg"].(float64); ok {
			want = int(n)
		}
		if n, ok := rows[0]["next_cfg"].(int); ok {
			want = n
		}
	}
	if err := s.Until(ctx, func() (bool, error) { r, err := s.Root(); return r.CurrentConfig >= want, err }); err != nil {
		return fmt.Errorf("%w: ovs-vswitchd does not take changes: %w", ErrAway, err)
	}
	return nil
}

// AddBridge makes a bridge that passes nothing until it has flows.
func (s *Session) AddBridge(ctx context.Context, name, datapath string, ids map[string]string) error {
	secure := "secure"
	i := &Interface{UUID: "newif", Name: name, Type: "internal"}
	p := &Port{UUID: "newport", Name: name, Interfaces: []string{"newif"}}
	b := &Bridge{UUID: "newbridge", Name: name, Datapath: datapath, FailMode: &secure, Ports: []string{"newport"}, ExternalIDs: ids, Protocols: protocols()}
	ops, err := s.create(i, p, b)
	if err != nil {
		return err
	}
	root, err := s.Root()
	if err != nil {
		return err
	}
	more, err := s.c.Where(&root).Mutate(&root, model.Mutation{Field: &root.Bridges, Mutator: ovsdb.MutateOperationInsert, Value: []string{"newbridge"}})
	if err != nil {
		return err
	}
	return s.transact(ctx, true, append(ops, more...)...)
}

// create inserts rows of any tables.
func (s *Session) create(rows ...model.Model) (ops []ovsdb.Operation, err error) {
	for _, r := range rows {
		o, err := s.c.Create(r)
		if err != nil {
			return nil, err
		}
		ops = append(ops, o...)
	}
	return ops, nil
}

func protocols() []string { return []string{"OpenFlow10", "OpenFlow13", "OpenFlow14"} }

// SecureBridge puts a bridge's failure mode and protocols right, and takes controllers away that somebody gave it.
func (s *Session) SecureBridge(ctx context.Context, b *Bridge) error {
	secure := "secure"
	row := &Bridge{UUID: b.UUID, FailMode: &secure, Protocols: protocols(), Controller: []string{}}
	ops, err := s.c.Where(row).Update(row, &row.FailMode, &row.Protocols, &row.Controller)
	if err != nil {
		return err
	}
	return s.transact(ctx, true, ops...)
}

// Secure reports whether a bridge is as SecureBridge makes it.
func (b *Bridge) Secure() bool {
	return b.FailMode != nil && *b.FailMode == "secure" && len(b.Controller) == 0 && slices.Contains(b.Protocols, "OpenFlow14") && slices.Contains(b.Protocols, "OpenFlow10") && slices.Contains(b.Protocols, "OpenFlow13")
}

// DeleteBridge removes a bridge with its ports.
func (s *Session) DeleteBridge(ctx context.Context, b *Bridge) error {
	root, err := s.Root()
	if err != nil {
		return err
	}
	ops, err := s.c.Where(&root).Mutate(&root, model.Mutation{Field: &root.Bridges, Mutator: ovsdb.MutateOperationDelete, Value: []string{b.UUID}})
	if err != nil {
		return err
	}
	return s.transact(ctx, true, ops...)
}

// Record writes some external_ids of a bridge, and removes those whose value is empty, in one transaction.
func (s *Session) Record(ctx context.Context, b *Bridge, ids map[string]string) error {
	row := &Bridge{UUID: b.UUID}
	gone := slices.Collect(maps.Keys(ids))
	put := map[string]string{}
	for k, v := range ids {
		if v != "" {
			put[k] = v
		}
	}
	mutations := []model.Mutation{{Field: &row.ExternalIDs, Mutator: ovsdb.MutateOperationDelete, Value: gone}}
	if len(put) > 0 {
		mutations = append(mutations, model.Mutation{Field: &row.ExternalIDs, Mutator: ovsdb.MutateOperationInsert, Value: put})
	}
	ops, err := s.c.Where(row).Mutate(row, mutations...)
	if err != nil {
		return err
	}
	return s.transact(ctx, false, ops...)
}

// Plug is a port with one interface that the driver makes.
type Plug struct {
	Bridge  string
	Name    string
	Type    string // "vxlan", "patch", "internal"
	Options map[string]string
	Tag     *int
	MAC     string
	MTU     int
	IDs     map[string]string
}

// same reports whether a port is as the plug says.
func (p Plug) same(port *Port, i *Interface) bool {
	tag := p.Tag == nil && port.Tag == nil || p.Tag != nil && port.Tag != nil && *p.Tag == *port.Tag
	mac := p.MAC == "" || i.MAC != nil && *i.MAC == p.MAC
	mtu := p.MTU == 0 || i.MTURequest != nil && *i.MTURequest == p.MTU
	return tag && mac && mtu && i.Type == p.Type && maps.Equal(orEmpty(i.Options), orEmpty(p.Options)) && contains(i.ExternalIDs, p.IDs) && contains(port.ExternalIDs, p.IDs)
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func contains(have, want map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

// View is the database at one moment, seen by names.
type View struct {
	Bridges    map[string]*Bridge
	Ports      map[string]*Port      // by UUID
	Interfaces map[string]*Interface // by UUID
	PortNamed  map[string]*Port
	BridgeOf   map[string]string // name of the bridge, by the port's UUID
}

// forget lets the next View read the copy anew.
func (s *Session) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view = nil
	s.changes++
}

// View reads the copy of the database, unless it is as it was: with hundreds of ports that takes longer than what is done with it. Nobody changes what it returns.
func (s *Session) View() (*View, error) {
	s.mu.Lock()
	known, changes := s.view, s.changes
	s.mu.Unlock()
	if known != nil && s.life.Err() == nil {
		return known, nil
	}
	v, err := s.read()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes == changes {
		s.view = v
	}
	return v, nil
}

func (s *Session) read() (*View, error) {
	v := &View{PortNamed: map[string]*Port{}, BridgeOf: map[string]string{}}
	var err error
	if v.Bridges, err = s.Bridges(); err != nil {
		return nil, err
	}
	if v.Ports, err = s.Ports(); err != nil {
		return nil, err
	}
	if v.Interfaces, err = s.Interfaces(); err != nil {
		return nil, err
	}
	for _, p := range v.Ports {
		v.PortNamed[p.Name] = p
	}
	for _, b := range v.Bridges {
		for _, p := range b.Ports {
			v.BridgeOf[p] = b.Name
		}
	}
	return v, nil
}

// Interface is the only interface of a port; nil when it has none or several.
func (v *View) Interface(p *Port) *Interface {
	if p == nil || len(p.Interfaces) != 1 {
		return nil
	}
	return v.Interfaces[p.Interfaces[0]]
}

// Plugged reports whether a port is there as the plug says.
func (v *View) Plugged(p Plug) bool {
	port := v.PortNamed[p.Name]
	i := v.Interface(port)
	return i != nil && v.BridgeOf[port.UUID] == p.Bridge && p.same(port, i)
}

// Plug makes ports as the plugs say, and removes those named, in one transaction. A port that is there otherwise is made anew.
func (s *Session) Plug(ctx context.Context, v *View, plugs []Plug, unplug []string) error {
	var ops []ovsdb.Operation
	detach := func(name string) error {
		p := v.PortNamed[name]
		if p == nil {
			return nil
		}
		b := v.Bridges[v.BridgeOf[p.UUID]]
		if b == nil {
			return nil
		}
		row := &Bridge{UUID: b.UUID}
		o, err := s.c.Where(row).Mutate(row, model.Mutation{Field: &row.Ports, Mutator: ovsdb.MutateOperationDelete, Value: []string{p.UUID}})
		ops = append(ops, o...)
		return err
	}
	for _, name := range unplug {
		if err := detach(name); err != nil {
			return err
		}
	}
	for n, p := range plugs {
		if v.Plugged(p) {
			continue
		}
		b := v.Bridges[p.Bridge]
		if b == nil {
			return fmt.Errorf("bridge %s is absent", p.Bridge)
		}
		if port := v.PortNamed[p.Name]; port != nil {
			if i := v.Interface(port); i != nil && i.Type == p.Type && v.BridgeOf[port.UUID] == p.Bridge {
				o, err := s.adjust(port, i, p)
				if err != nil {
					return err
				}
				ops = append(ops, o...)
				continue
			}
			if err := detach(p.Name); err != nil {
				return err
			}
		}
		i := &Interface{UUID: fmt.Sprintf("newif%d", n), Name: p.Name, Type: p.Type, Options: p.Options, ExternalIDs: p.IDs}
		if p.MAC != "" {
			i.MAC = &p.MAC
		}
		if p.MTU != 0 {
			i.MTURequest = &p.MTU
		}
		port := &Port{UUID: fmt.Sprintf("newport%d", n), Name: p.Name, Interfaces: []string{i.UUID}, Tag: p.Tag, ExternalIDs: p.IDs}
		o, err := s.create(i, port)
		if err != nil {
			return err
		}
		row := &Bridge{UUID: b.UUID}
		m, err := s.c.Where(row).Mutate(row, model.Mutation{Field: &row.Ports, Mutator: ovsdb.MutateOperationInsert, Value: []string{port.UUID}})
		if err != nil {
			return err
		}
		ops = append(append(ops, o...), m...)
	}
	if len(ops) == 0 {
		return nil
	}
	return s.transact(ctx, true, ops...)
}

// adjust changes a port in place.
func (s *Session) adjust(port *Port, i *Interface, p Plug) ([]ovsdb.Operation, error) {
	ni := &Interface{UUID: i.UUID, Options: orEmpty(p.Options), ExternalIDs: merged(i.ExternalIDs, p.IDs), MAC: i.MAC, MTURequest: i.MTURequest}
	if p.MAC != "" {
		ni.MAC = &p.MAC
	}
	if p.MTU != 0 {
		ni.MTURequest = &p.MTU
	}
	ops, err := s.c.Where(ni).Update(ni, &ni.Options, &ni.ExternalIDs, &ni.MAC, &ni.MTURequest)
	if err != nil {
		return nil, err
	}
	np := &Port{UUID: port.UUID, Tag: p.Tag, ExternalIDs: merged(port.ExternalIDs, p.IDs)}
	more, err := s.c.Where(np).Update(np, &np.Tag, &np.ExternalIDs)
	return append(ops, more...), err
}

// Marking says what external_ids a port that somebody else made shall get besides its own, and its interface.
type Marking struct {
	Port      *Port
	Interface *Interface
	IDs       map[string]string
}

// Mark writes external_ids on ports that somebody else made, in one transaction.
func (s *Session) Mark(ctx context.Context, marks []Marking) error {
	var ops []ovsdb.Operation
	for _, m := range marks {
		ni, np := &Interface{UUID: m.Interface.UUID, ExternalIDs: merged(m.Interface.ExternalIDs, m.IDs)}, &Port{UUID: m.Port.UUID, ExternalIDs: merged(m.Port.ExternalIDs, m.IDs)}
		o, err := s.c.Where(ni).Update(ni, &ni.ExternalIDs)
		if err != nil {
			return err
		}
		more, err := s.c.Where(np).Update(np, &np.ExternalIDs)
		if err != nil {
			return err
		}
		ops = append(append(ops, o...), more...)
	}
	if len(ops) == 0 {
		return nil
	}
	return s.transact(ctx, false, ops...)
}

func merged(a, b map[string]string) map[string]string {
	m := maps.Clone(orEmpty(a))
	maps.Copy(m, b)
	return m
}
