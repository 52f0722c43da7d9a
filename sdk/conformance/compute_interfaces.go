package conformance

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// interfaceChecks are about interfaces that come and go, and their links.
func interfaceChecks() []*Check {
	plug, link := driverv1.ComputeFeature_COMPUTE_FEATURE_INTERFACE_HOTPLUG, driverv1.ComputeFeature_COMPUTE_FEATURE_LINK_STATE
	return []*Check{
		{Name: "compute/interface/cold", Contract: "AttachInterface and DetachInterface of a domain that does not run, with every kind of binding: repeated, OK; what was attached is the spec that has it, and starts.", Compute: plug, run: interfaceCold},
		{Name: "compute/interface/hot", Contract: "AttachInterface adds an interface live and GetDomain shows it; DetachInterface returns when the guest has let it go, or FAILED_PRECONDITION. The process stays.", Compute: plug, run: interfaceHot},
		{Name: "compute/interface/other-spec-conflicts", Contract: "Same interface id, other spec: ALREADY_EXISTS.", Compute: plug, run: interfaceOther},
		{Name: "compute/interface/refused", Contract: "An interface without a binding, with more queues than the driver can, or with several queues and another model than virtio: INVALID_ARGUMENT, and nothing is added.", Compute: plug, run: interfaceRefused},
		{Name: "compute/interface/absent", Contract: "DetachInterface of what is absent: OK. AttachInterface to a domain that is absent: NOT_FOUND.", Compute: plug, run: interfaceAbsent},
		{Name: "compute/interface/link", Contract: "SetLink sets an interface's link, repeated: OK; the spec stays what it was. An interface that the domain has not: FAILED_PRECONDITION or NOT_FOUND.", Compute: link, run: interfaceLink},
	}
}

// interfaceVerbs are the changing calls on interfaces, each to be borne under each fault.
func interfaceVerbs() []verb {
	return []verb{
		{name: "attach-interface", needs: int32(driverv1.ComputeFeature_COMPUTE_FEATURE_INTERFACE_HOTPLUG), prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			d, nic := e.started(t), e.newInterfaces(t)[0]
			return func(ctx context.Context) error {
				_, err := e.compute().AttachInterface(ctx, &driverv1.AttachInterfaceRequest{DomainId: d.id, Interface: nic})
				return err
			}, func(t T) { d.has(t, nic) }
		}},
	}
}

// has fails the check unless the domain is, and runs as, its spec with the interfaces.
func (d *domain) has(t T, nics ...*driverv1.DomainInterface) {
	t.Helper()
	req := d.createRequest()
	req.Spec = proto.CloneOf(d.spec)
	req.Spec.Interfaces = append(req.Spec.Interfaces, nics...)
	if got := call(t, d.e.compute().CreateDomain, req).GetDomain(); got.GetRestartRequired() {
		t.Errorf("it runs as something else: %v", got)
	}
}

// newInterfaces are interfaces of all the kinds of binding that the plugin advertises and the options can make.
func (e *Env) newInterfaces(t T) (nics []*driverv1.DomainInterface) {
	t.Helper()
	for _, kind := range e.caps().GetCompute().GetInterfaceBindings() {
		id := newID()
		binding, err := e.binding(kind, id)
		must(t, fmt.Sprintf("make a binding of %s", kind), err)
		if binding != nil {
			nics = append(nics, &driverv1.DomainInterface{InterfaceId: id, Mac: fmt.Sprintf("02:%s:%s:%s:%s:%s", id[:2], id[2:4], id[4:6], id[6:8], id[9:11]), Binding: binding})
		}
	}
	if len(nics) == 0 {
		t.Fatalf("no kind of binding that is advertised can be tried: %v", e.caps().GetCompute().GetInterfaceBindings())
	}
	return nics
}

// binding is something to plug into; nil = the options make none of that kind.
func (e *Env) binding(kind driverv1.InterfaceBindingKind, id string) (*driverv1.InterfaceBinding, error) {
	if e.o.Compute.Interface != nil {
		return e.o.Compute.Interface(kind)
	}
	if kind != driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_TAP {
		return nil, nil //nolint:nilnil // not of that kind
	}
	return &driverv1.InterfaceBinding{Binding: &driverv1.InterfaceBinding_Tap{Tap: &driverv1.TapBinding{TapName: "lqc" + id[:8]}}}, nil
}

// seen reports whether GetDomain shows an interface of a running domain, and with its link so.
func (d *domain) seen(t T, id string) (there, up bool) {
	t.Helper()
	i := slices.IndexFunc(d.get(t).GetInterfaces(), func(n *driverv1.DomainInterfaceStatus) bool { return n.GetInterfaceId() == id })
	if i < 0 {
		return false, false
	}
	return true, d.get(t).GetInterfaces()[i].GetLinkUp()
}

func interfaceCold(t T, e *Env) {
	d := e.defined(t)
	nics := e.newInterfaces(t)
	for _, nic := range nics {
		for range 2 {
			call(t, e.compute().AttachInterface, &driverv1.AttachInterfaceRequest{DomainId: d.id, Interface: nic})
		}
	}
	d.has(t, nics...)
	call(t, e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: d.id})
	d.wantState(t, running)
	for _, nic := range nics {
		if there, up := d.seen(t, nic.GetInterfaceId()); !there || !up {
			t.Errorf("interface %v: seen %v, up %v", nic, there, up)
		}
	}
	call(t, e.compute().StopDomain, &driverv1.StopDomainRequest{DomainId: d.id, Force: true})
	for _, nic := range nics {
		for range 2 {
			call(t, e.compute().DetachInterface, &driverv1.DetachInterfaceRequest{DomainId: d.id, InterfaceId: nic.GetInterfaceId()})
		}
	}
	d.has(t)
}

func interfaceHot(t T, e *Env) {
	d := e.started(t)
	before := d.get(t)
	nics := e.newInterfaces(t)
	for _, nic := range nics {
		for range 2 {
			call(t, e.compute().AttachInterface, &driverv1.AttachInterfaceRequest{DomainId: d.id, Interface: nic})
		}
		if there, up := d.seen(t, nic.GetInterfaceId()); !there || !up {
			t.Errorf("interface %v: seen %v, up %v", nic, there, up)
		}
	}
	d.has(t, nics...)
	for _, nic := range nics {
		detach := func() error {
			_, err := e.compute().DetachInterface(within(t), &driverv1.DetachInterfaceRequest{DomainId: d.id, InterfaceId: nic.GetInterfaceId()})
			wantCode(t, "detach", err, codes.OK, codes.FailedPrecondition)
			return err
		}
		if e.o.Compute.GuestReboots { // it lets go once it is up
			eventually(t, callTimeout, "the guest lets go", func() bool { return detach() == nil })
		} else {
			_ = detach() // as it likes
			call(t, e.compute().StopDomain, &driverv1.StopDomainRequest{DomainId: d.id, Force: true})
		}
		call(t, e.compute().DetachInterface, &driverv1.DetachInterfaceRequest{DomainId: d.id, InterfaceId: nic.GetInterfaceId()})
		if there, _ := d.seen(t, nic.GetInterfaceId()); there {
			t.Errorf("interface %v is still there", nic)
		}
	}
	d.has(t)
	if after := d.get(t); e.o.Compute.GuestReboots && after.GetPid() != before.GetPid() {
		t.Errorf("process %d became %d", before.GetPid(), after.GetPid())
	}
}

func interfaceOther(t T, e *Env) {
	d, nic := e.defined(t), e.newInterfaces(t)[0]
	call(t, e.compute().AttachInterface, &driverv1.AttachInterfaceRequest{DomainId: d.id, Interface: nic})
	other := proto.CloneOf(nic)
	other.Mac = "02:00:00:00:00:01"
	refused(t, "the interface with another spec", e.compute().AttachInterface, &driverv1.AttachInterfaceRequest{DomainId: d.id, Interface: other}, codes.AlreadyExists)
	d.has(t, nic)
}

func interfaceRefused(t T, e *Env) {
	d, nic := e.defined(t), e.newInterfaces(t)[0]
	for what, spoil := range map[string]func(*driverv1.DomainInterface){
		"no binding":             func(n *driverv1.DomainInterface) { n.Binding = nil },
		"a million queues":       func(n *driverv1.DomainInterface) { n.Queues = 1 << 20 },
		"queues of a plain card": func(n *driverv1.DomainInterface) { n.Queues, n.Model = 2, "e1000e" },
	} {
		bad := proto.CloneOf(nic)
		spoil(bad)
		refused(t, what, e.compute().AttachInterface, &driverv1.AttachInterfaceRequest{DomainId: d.id, Interface: bad}, codes.InvalidArgument)
	}
	d.has(t)
}

func interfaceAbsent(t T, e *Env) {
	d, nic := e.defined(t), e.newInterfaces(t)[0]
	call(t, e.compute().DetachInterface, &driverv1.DetachInterfaceRequest{DomainId: d.id, InterfaceId: newID()})
	call(t, e.compute().DetachInterface, &driverv1.DetachInterfaceRequest{DomainId: newID(), InterfaceId: newID()})
	refused(t, "attach to an absent domain", e.compute().AttachInterface, &driverv1.AttachInterfaceRequest{DomainId: newID(), Interface: nic}, codes.NotFound)
	nic.InterfaceId = "../x"
	refused(t, "attach of an interface with a wrong id", e.compute().AttachInterface, &driverv1.AttachInterfaceRequest{DomainId: d.id, Interface: nic}, codes.InvalidArgument)
	d.has(t)
}

func interfaceLink(t T, e *Env) {
	d, nic := e.defined(t), e.newInterfaces(t)[0]
	call(t, e.compute().AttachInterface, &driverv1.AttachInterfaceRequest{DomainId: d.id, Interface: nic})
	call(t, e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: d.id})
	for _, up := range []bool{false, false, true, true} {
		call(t, e.compute().SetLink, &driverv1.SetLinkRequest{DomainId: d.id, InterfaceId: nic.GetInterfaceId(), Up: up})
		if there, now := d.seen(t, nic.GetInterfaceId()); !there || now != up {
			t.Errorf("set to up %v: seen %v, up %v", up, there, now)
		}
	}
	refused(t, "an interface that it has not", e.compute().SetLink, &driverv1.SetLinkRequest{DomainId: d.id, InterfaceId: newID()}, codes.FailedPrecondition, codes.NotFound)
	d.has(t, nic)
}
