// Package record keeps what the driver was told in marker files of a runtime directory, which lives exactly as long as the kernel's state: until the next boot.
// Each file holds one object with its mark, is replaced in one step, and is the mark of what the kernel has no room to mark.
package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Network is a network with the numbers that the driver chose for it.
type Network struct {
	Number  uint32 // 1-4095, another for each network of the node: packet mark, routing table, DNS port
	Zone    uint32 // connection tracking zone
	Request *driverv1.EnsureNetworkRequest
}

// Interface is an interface as asked for.
type Interface = driverv1.NetworkDriverServiceAttachInterfaceRequest

// State is all that the driver was told, by id. What its maps point to is never changed, only replaced.
type State struct {
	Networks   map[string]*Network
	Interfaces map[string]*Interface
	RuleSets   map[string]*driverv1.RuleSet
	Sets       map[string]*driverv1.AddressSet
	Plans      map[string]*ruleset.Plan // RuleSets, compiled
	Members    map[string]*ruleset.Set  // Sets, parsed
}

// NewState is one without anything.
func NewState() *State {
	return &State{
		map[string]*Network{},
		map[string]*Interface{},
		map[string]*driverv1.RuleSet{},
		map[string]*driverv1.AddressSet{},
		map[string]*ruleset.Plan{},
		map[string]*ruleset.Set{},
	}
}

// Put adds an address set whose members are valid.
func (s *State) Put(a *driverv1.AddressSet) {
	m, _ := ruleset.ParseMembers("members", a.GetMembers())
	s.PutSet(&ruleset.Set{ID: a.GetAddressSetId(), Generation: a.GetGeneration(), Mark: a.GetMark(), Members: m})
}

// PutSet adds an address set.
func (s *State) PutSet(x *ruleset.Set) {
	s.Members[x.ID] = x
	s.Sets[x.ID] = &driverv1.AddressSet{AddressSetId: x.ID, Mark: x.Mark, Generation: x.Generation, Members: x.Members.Strings()}
}

// Dir is the directory of records.
type Dir string

const (
	networks   = "networks"
	interfaces = "interfaces"
	ruleSets   = "rule-sets"
	sets       = "address-sets"
)

type networkFile struct {
	Number  uint32          `json:"number"`
	Zone    uint32          `json:"zone"`
	Request json.RawMessage `json:"request"`
}

// Load reads all records. A file that cannot be read is an error: to go on without it would be to forget rules.
func (d Dir) Load() (*State, error) {
	s := NewState()
	err := errors.Join(
		d.each(networks, func(id string, b []byte) error {
			var f networkFile
			if err := json.Unmarshal(b, &f); err != nil {
				return err
			}
			n := &Network{Number: f.Number, Zone: f.Zone, Request: &driverv1.EnsureNetworkRequest{}}
			s.Networks[id] = n
			return protojson.Unmarshal(f.Request, n.Request)
		}),
		d.each(interfaces, func(id string, b []byte) error {
			s.Interfaces[id] = &Interface{}
			return protojson.Unmarshal(b, s.Interfaces[id])
		}),
		d.each(ruleSets, func(id string, b []byte) error {
			r := &driverv1.RuleSet{}
			if err := protojson.Unmarshal(b, r); err != nil {
				return err
			}
			p, err := ruleset.Compile(r, 0)
			s.RuleSets[id], s.Plans[id] = r, p
			return err
		}),
		d.each(sets, func(id string, b []byte) error {
			a := &driverv1.AddressSet{}
			if err := protojson.Unmarshal(b, a); err != nil {
				return err
			}
			s.Put(a)
			return nil
		}),
	)
	return s, err
}

func (d Dir) each(kind string, f func(id string, b []byte) error) error {
	entries, err := os.ReadDir(filepath.Join(string(d), kind))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != "" {
			continue // half a file of a plugin that was killed
		}
		path := filepath.Join(string(d), kind, e.Name())
		b, err := os.ReadFile(path)
		if err == nil {
			err = f(e.Name(), b)
		}
		if err != nil {
			return fmt.Errorf("record %s: %w", path, err)
		}
	}
	return err
}

// Save writes what of next differs from old, and removes what it no longer has.
func (d Dir) Save(old, next *State) error {
	return errors.Join(
		save(d, networks, old.Networks, next.Networks, func(n *Network) ([]byte, error) {
			r, err := protojson.Marshal(n.Request)
			if err != nil {
				return nil, err
			}
			return json.Marshal(networkFile{n.Number, n.Zone, r})
		}),
		save(d, interfaces, old.Interfaces, next.Interfaces, encode[*Interface]),
		save(d, ruleSets, old.RuleSets, next.RuleSets, encode[*driverv1.RuleSet]),
		save(d, sets, old.Sets, next.Sets, encode[*driverv1.AddressSet]),
	)
}

func encode[T proto.Message](v T) ([]byte, error) { return protojson.Marshal(v) }

func save[T comparable](d Dir, kind string, old, next map[string]T, encode func(T) ([]byte, error)) error {
	dir := filepath.Join(string(d), kind)
	for id, v := range next {
		if old[id] == v {
			continue
		}
		b, err := encode(v)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		path := filepath.Join(dir, id)
		if err := os.WriteFile(path+".new", b, 0o600); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	for id := range old {
		if _, kept := next[id]; !kept {
			if err := os.Remove(filepath.Join(dir, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
