package reconcile

import (
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// runsWith is a domain that runs with interfaces, whose links are up.
func runsWith(ids ...string) *driverv1.Domain {
	d := &driverv1.Domain{State: driverv1.DomainState_DOMAIN_STATE_RUNNING}
	for _, id := range ids {
		d.Interfaces = append(d.Interfaces, &driverv1.DomainInterfaceStatus{InterfaceId: id, LinkUp: true})
	}
	return d
}

func TestPortUse(t *testing.T) {
	t.Parallel()
	// A VM that runs and whose definition is without the port, which it has let go of.
	free := func() portUseView {
		vm := &agentv1.DesiredVM{VmId: "vm", Epoch: 2, Ports: []*agentv1.VMPort{{NicName: "n", PortId: "other"}}}
		return portUseView{Port: "port", Epoch: 2, VM: vm, Looked: true, Domain: runsWith("other"), Input: inputHash(vm), Record: realised.Record{InputHash: inputHash(vm), Ports: []string{"other"}}}
	}
	gone := realised.Record{Gone: time.Unix(1, 0)}
	for name, c := range map[string]struct {
		change func(*portUseView)
		free   bool
	}{
		"let go":                          {func(*portUseView) {}, true},
		"never made":                      {func(v *portUseView) { v.Domain, v.Record = nil, realised.Record{} }, true},
		"a NIC of the VM":                 {func(v *portUseView) { v.VM.Ports[0].PortId = "port" }, false},
		"not looked at":                   {func(v *portUseView) { v.Looked = false }, false},
		"noted for a definition":          {func(v *portUseView) { v.Record.Ports = append(v.Record.Ports, "port") }, false},
		"noted, and no domain yet":        {func(v *portUseView) { v.Record.Ports, v.Domain = []string{"port"}, nil }, false},
		"still plugged in":                {func(v *portUseView) { v.Domain = runsWith("other", "port") }, false},
		"old definition":                  {func(v *portUseView) { v.Record.InputHash = "old" }, false},
		"VM to be deleted":                {func(v *portUseView) { v.VM.Absent = true }, false},
		"VM deleted":                      {func(v *portUseView) { v.VM.Absent, v.Deleted = true, true }, true},
		"VM confirmed gone":               {func(v *portUseView) { v.VM.Absent, v.Looked, v.Record = true, false, gone }, true},
		"VM forgotten and gone":           {func(v *portUseView) { v.VM, v.Record, v.Silent = nil, gone, "kvm" }, true},
		"VM forgotten":                    {func(v *portUseView) { v.VM = nil }, true},
		"VM forgotten, its domain is not": {func(v *portUseView) { v.VM, v.Orphan = nil, true }, false},
		"VM forgotten, nobody was asked":  {func(v *portUseView) { v.VM, v.Silent = nil, "kvm" }, false},
		"of an earlier placement, off": {func(v *portUseView) {
			v.VM.Ports[0].PortId, v.Epoch, v.Domain.State = "port", 1, driverv1.DomainState_DOMAIN_STATE_STOPPED
		}, true},
		"of an earlier placement, on": {func(v *portUseView) { v.VM.Ports[0].PortId, v.Epoch = "port", 1 }, false},
		"of an earlier placement, being started": {func(v *portUseView) {
			v.VM.Ports[0].PortId, v.Epoch, v.Domain, v.Starting = "port", 1, nil, true
		}, false},
	} {
		v := free()
		c.change(&v)
		if why := portUse(v); (why == "") != c.free {
			t.Errorf("%s: %q", name, why)
		}
	}
}
