package reference

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// queuesMost is how many queues an interface of the simulated hypervisor can have.
const queuesMost = 8

// interfaceFeatures are those of a driver whose interfaces come and go while a domain runs.
func interfaceFeatures() []driverv1.ComputeFeature {
	return []driverv1.ComputeFeature{driverv1.ComputeFeature_COMPUTE_FEATURE_INTERFACE_HOTPLUG, driverv1.ComputeFeature_COMPUTE_FEATURE_LINK_STATE}
}

func (d *driver) onlineInterfaces() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg.OnlineInterfaces
}

// interfaceViolations is what is wrong with a spec's interfaces.
func interfaceViolations(s *driverv1.DomainSpec) (v []fault.Violation) {
	for i, n := range s.GetInterfaces() {
		bad := func(wrong bool, field, description string) {
			if wrong {
				v = append(v, fault.Violation{Field: fmt.Sprintf("spec.interfaces[%d].%s", i, field), Description: description})
			}
		}
		bad(n.GetBinding().GetTap().GetTapName() == "", "binding", "only taps are advertised")
		bad(n.GetQueues() > queuesMost, "queues", fmt.Sprintf("must be at most %d", queuesMost))
		bad(n.GetQueues() > 1 && n.GetModel() != "", "queues", "only with model virtio")
	}
	return v
}

// plugged is an interface that a domain has.
func plugged(n *driverv1.DomainInterface) *driverv1.DomainInterfaceStatus {
	return &driverv1.DomainInterfaceStatus{InterfaceId: n.GetInterfaceId(), Device: n.GetBinding().GetTap().GetTapName(), LinkUp: !n.GetLinkDown()}
}

// AttachInterface adds an interface, at once.
func (c *computeDriver) AttachInterface(ctx context.Context, req *driverv1.AttachInterfaceRequest) (*driverv1.AttachInterfaceResponse, error) {
	if !c.onlineInterfaces() {
		return c.UnimplementedComputeDriverServiceServer.AttachInterface(ctx, req)
	}
	n := req.GetInterface()
	if err := checkID("interface.interface_id", n.GetInterfaceId()); err != nil {
		return nil, err
	}
	d, err := c.withSpec(ctx, req.GetDomainId(), func(d *driverv1.Domain, s *driverv1.DomainSpec) error {
		i := slices.IndexFunc(s.GetInterfaces(), func(have *driverv1.DomainInterface) bool { return have.GetInterfaceId() == n.GetInterfaceId() })
		if i >= 0 {
			if !proto.Equal(s.GetInterfaces()[i], n) && !c.defect("interface-ignores-spec") {
				return conflict("interface", n.GetInterfaceId())
			}
			if runs(d) && !slices.ContainsFunc(d.GetInterfaces(), func(have *driverv1.DomainInterfaceStatus) bool { return have.GetInterfaceId() == n.GetInterfaceId() }) {
				d.Interfaces = append(d.Interfaces, plugged(n)) // it was defined for the next start
			}
			return nil
		}
		s.Interfaces = append(s.Interfaces, n)
		if v := interfaceViolations(s); len(v) > 0 {
			return fault.Invalid(v...)
		}
		d.Interfaces = append(d.Interfaces, plugged(n))
		return nil
	})
	return &driverv1.AttachInterfaceResponse{Domain: d}, err
}

// DetachInterface removes an interface; every guest lets it go.
func (c *computeDriver) DetachInterface(ctx context.Context, req *driverv1.DetachInterfaceRequest) (*driverv1.DetachInterfaceResponse, error) {
	if !c.onlineInterfaces() {
		return c.UnimplementedComputeDriverServiceServer.DetachInterface(ctx, req)
	}
	d, err := c.withSpec(ctx, req.GetDomainId(), func(d *driverv1.Domain, s *driverv1.DomainSpec) error {
		s.Interfaces = slices.DeleteFunc(s.Interfaces, func(n *driverv1.DomainInterface) bool { return n.GetInterfaceId() == req.GetInterfaceId() })
		d.Interfaces = slices.DeleteFunc(d.Interfaces, func(n *driverv1.DomainInterfaceStatus) bool { return n.GetInterfaceId() == req.GetInterfaceId() })
		return nil
	})
	if fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND) {
		err = nil
	}
	return &driverv1.DetachInterfaceResponse{Domain: d}, err
}

// SetLink sets an interface's link.
func (c *computeDriver) SetLink(ctx context.Context, req *driverv1.SetLinkRequest) (*driverv1.SetLinkResponse, error) {
	if !c.onlineInterfaces() {
		return c.UnimplementedComputeDriverServiceServer.SetLink(ctx, req)
	}
	_, err := c.on(ctx, req.GetDomainId(), driverv1.DomainEventType_DOMAIN_EVENT_TYPE_DEFINED, func(_ *tx, d *driverv1.Domain) (bool, error) {
		if d == nil {
			return false, absentDomain(req.GetDomainId())
		}
		for _, n := range d.GetInterfaces() {
			if n.GetInterfaceId() == req.GetInterfaceId() {
				if !c.defect("link-stays") {
					n.LinkUp = req.GetUp()
				}
				return true, nil
			}
		}
		return false, wrongState("domain %s has no interface %s", req.GetDomainId(), req.GetInterfaceId())
	})
	return &driverv1.SetLinkResponse{}, err
}
