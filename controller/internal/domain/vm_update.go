package domain

import (
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
	sameNICs := len(cur.GetNics()) == len(next.GetNics())
	for i := 0; sameNICs && i < len(cur.GetNics()); i++ {
		sameNICs = cur.GetNics()[i].GetName() == next.GetNics()[i].GetName()
	}
	if !sameNICs {
		v.Add("vm.spec.nics", "adding, removing or reordering interfaces comes with a later release; their settings can change")
	}
}
