package domain

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// UpdateVM is cur with the fields of the mask taken from change, defaulted and validated. specChanged says whether a new generation is due. The
// secret user-data, if any was given, is still in the result's spec: keepUserData says that the one already sealed stays.
func UpdateVM(cur, change *computev1.VM, mask *fieldmaskpb.FieldMask) (next *computev1.VM, specChanged, keepUserData bool, err error) {
	var v Violations
	next = proto.CloneOf(cur)
	ApplyMask(&v, next, change, mask, vmPathAllowed)
	if err := v.Err(); err != nil {
		return nil, false, false, err
	}
	if next.Spec == nil {
		next.Spec = &computev1.VMSpec{}
	}
	next.Spec.RestartGeneration = cur.GetSpec().GetRestartGeneration() // RebootVM's alone
	keepUserData = settleUserData(next.GetSpec(), cur.GetSpec(), slices.Contains(mask.GetPaths(), "spec.cloud_init.user_data"))
	keepMACs(next.GetSpec(), cur.GetSpec())
	DefaultVM(next.GetSpec(), cur.GetMeta().GetId())
	ValidateVM(&v, next)
	checkImmutable(&v, cur.GetSpec(), next.GetSpec())
	if err := v.Err(); err != nil {
		return nil, false, false, err
	}
	return next, !proto.Equal(cur.GetSpec(), next.GetSpec()), keepUserData, nil
}

// settleUserData keeps the sealed document when the mask did not reach it, or the client sent back the checksum that it read. named says that the
// mask names the document itself: then an empty one removes it.
func settleUserData(next, cur *computev1.VMSpec, named bool) bool {
	was := cur.GetCloudInit().GetUserDataSha256()
	ci := next.GetCloudInit()
	if ci == nil {
		return false
	}
	keep := !named && was != "" && len(ci.GetUserData()) == 0 && ci.GetUserDataSha256() == was
	if !keep {
		ci.UserDataSha256 = ""
	}
	return keep
}

func vmPathAllowed(path string) (string, bool) {
	switch {
	case Under(path, "spec.machine_type"):
		return "cannot change: delete the VM and create it anew", false
	case Under(path, "spec.restart_generation"):
		return "cannot be set: call RebootVM", false
	case Under(path, "spec.cloud_init.user_data_sha256"):
		return "cannot be set: it follows from user_data", false
	case Under(path, "spec"), path == "meta.labels", path == "meta.annotations":
		return "", true
	case Under(path, "meta.labels", "meta.annotations"):
		return "reaches into a map: name the whole map", false
	case Under(path, "meta", "status"):
		return "cannot change", false
	}
	return "names no field that can change: use paths under \"spec\", \"meta.labels\", \"meta.annotations\"", false
}

// checkImmutable notes changes that no update may make.
func checkImmutable(v *Violations, cur, next *computev1.VMSpec) {
	if cur.GetMachineType() != next.GetMachineType() {
		v.Add("vm.spec.machine_type", "cannot change: delete the VM and create it anew")
	}
	same := len(cur.GetDisks()) == len(next.GetDisks())
	for i := 0; same && i < len(cur.GetDisks()); i++ {
		a, b := cur.GetDisks()[i], next.GetDisks()[i]
		same = a.GetName() == b.GetName() && proto.Equal(a.GetInline(), b.GetInline()) && a.GetVolume() == b.GetVolume()
	}
	if !same {
		v.Add("vm.spec.disks", "adding, removing, reordering or resizing disks comes with a later release; bus, boot_order, read_only, discard and serial can change")
	}
	checkNICsKept(v, cur.GetNics(), next.GetNics())
}

// keepMACs gives a NIC in a network that is updated without MAC address the one that it has.
func keepMACs(next, cur *computev1.VMSpec) {
	for _, n := range next.GetNics() {
		if was := NICNamed(cur.GetNics(), n.GetName()); n.GetMac() == "" && n.GetNetwork() != nil && was.GetNetwork() != nil {
			n.Mac = was.GetMac()
		}
	}
}

// NICNamed is the NIC with a name; nil = none.
func NICNamed(nics []*computev1.NIC, name string) *computev1.NIC {
	i := slices.IndexFunc(nics, func(n *computev1.NIC) bool { return n.GetName() == name })
	if i < 0 {
		return nil
	}
	return nics[i]
}

// checkNICsKept notes changes of NICs that no update may make: NICs in networks come and go, user-mode ones do not, and those that stay keep their order and what they are plugged into.
func checkNICsKept(v *Violations, cur, next []*computev1.NIC) {
	last := -1
	for i, n := range next {
		at := fmt.Sprintf("vm.spec.nics[%d]", i)
		j := slices.IndexFunc(cur, func(c *computev1.NIC) bool { return c.GetName() == n.GetName() })
		if j < 0 {
			if n.GetNetwork() == nil {
				v.Add(at, "a user-mode interface cannot be added to a VM: use one in a network")
			}
			continue
		}
		was := cur[j]
		if j < last {
			v.Add(at, "interfaces that stay keep their order")
		}
		last = max(last, j)
		switch {
		case (was.GetNetwork() == nil) != (n.GetNetwork() == nil):
			v.Add(at, "cannot change between user and network: take the interface out, and add one by another name")
		case n.GetNetwork() != nil && was.GetMac() != n.GetMac():
			v.Add(at+".mac", "cannot change: take the interface out, and add one by another name")
		}
	}
	for _, c := range cur {
		if c.GetNetwork() == nil && NICNamed(next, c.GetName()) == nil {
			v.Add("vm.spec.nics", "user-mode interface %q cannot be taken out", c.GetName())
		}
	}
}
