package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// Change is one field that is not what it was.
type Change struct{ Path, Old, New string }

// String shows the change.
func (c Change) String() string { return fmt.Sprintf("%s: %s -> %s", c.Path, c.Old, c.New) }

// userData is the one secret of documents: it is never read back.
const userData = "spec.cloud_init.user_data"

func sameUserData(have, want Object) bool {
	h, ok1 := have.(*computev1.VM)
	w, ok2 := want.(*computev1.VM)
	if !ok1 || !ok2 {
		return false
	}
	sum := sha256.Sum256(w.GetSpec().GetCloudInit().GetUserData())
	return hex.EncodeToString(sum[:]) == h.GetSpec().GetCloudInit().GetUserDataSha256()
}

// Differing are those paths where want differs from have, so that an update has to name them. A secret is compared by its checksum.
func Differing(have, want Object, paths []string) []string {
	var out []string
	for _, p := range paths {
		if p == userData {
			if sameUserData(have, want) {
				continue
			}
		} else if sameAt(have.ProtoReflect(), want.ProtoReflect(), strings.Split(p, ".")) {
			continue
		}
		out = append(out, p)
	}
	return out
}

func sameAt(a, b protoreflect.Message, path []string) bool {
	fd := a.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	if len(path) > 1 {
		return sameAt(a.Get(fd).Message(), b.Get(fd).Message(), path[1:])
	}
	return a.Has(fd) == b.Has(fd) && (!a.Has(fd) || a.Get(fd).Equal(b.Get(fd)))
}

// Diff lists what differs between two states of an object in what users write: spec, labels and annotations.
func Diff(before, after Object) []Change {
	var out []Change
	a, b := before.ProtoReflect(), after.ProtoReflect()
	spec := a.Descriptor().Fields().ByName("spec")
	diff(&out, "spec", a.Get(spec).Message(), b.Get(spec).Message())
	for _, name := range []protoreflect.Name{"labels", "annotations"} {
		a, b := before.GetMeta().ProtoReflect(), after.GetMeta().ProtoReflect()
		diffField(&out, "meta."+string(name), a, b, a.Descriptor().Fields().ByName(name))
	}
	return out
}

func diff(out *[]Change, path string, a, b protoreflect.Message) {
	for i := range a.Descriptor().Fields().Len() {
		fd := a.Descriptor().Fields().Get(i)
		diffField(out, path+"."+string(fd.Name()), a, b, fd)
	}
}

func diffField(out *[]Change, path string, a, b protoreflect.Message, fd protoreflect.FieldDescriptor) {
	if !a.Has(fd) && !b.Has(fd) {
		return
	}
	if fd.Message() != nil && !fd.IsList() && !fd.IsMap() && fd.Message().ParentFile().Package() != "google.protobuf" {
		diff(out, path, a.Get(fd).Message(), b.Get(fd).Message())
		return
	}
	if a.Has(fd) != b.Has(fd) || !a.Get(fd).Equal(b.Get(fd)) {
		*out = append(*out, Change{Path: path, Old: show(a, fd), New: show(b, fd)})
	}
}

func show(m protoreflect.Message, fd protoreflect.FieldDescriptor) string {
	if !m.Has(fd) {
		return "(none)"
	}
	v := m.Get(fd)
	switch {
	case fd.IsMap():
		var parts []string
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			parts = append(parts, k.String()+"="+v.String())
			return true
		})
		slices.Sort(parts)
		return "{" + strings.Join(parts, ",") + "}"
	case fd.IsList():
		var parts []string
		for i := range v.List().Len() {
			parts = append(parts, one(v.List().Get(i), fd))
		}
		return "[" + strings.Join(parts, "; ") + "]"
	}
	return one(v, fd)
}

func one(v protoreflect.Value, fd protoreflect.FieldDescriptor) string {
	switch {
	case fd.Message() != nil:
		return text(v.Message().Interface())
	case fd.Kind() == protoreflect.EnumKind:
		if ev := fd.Enum().Values().ByNumber(v.Enum()); ev != nil {
			prefix := strings.TrimSuffix(string(fd.Enum().Values().Get(0).Name()), "UNSPECIFIED")
			return strings.ToLower(strings.TrimPrefix(string(ev.Name()), prefix))
		}
	case fd.Kind() == protoreflect.BytesKind:
		return fmt.Sprintf("(%d bytes)", len(v.Bytes()))
	}
	return v.String()
}

// text is a message on one line; prototext varies its white space on purpose.
func text(m proto.Message) string {
	return strings.Join(strings.Fields(prototext.MarshalOptions{}.Format(m)), " ")
}
