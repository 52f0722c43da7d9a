package domain

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// ApplyMask sets in dst every field that the mask names to what it is in src: cleared when src does not have it. It stops at the first kind of
// problem for each path and notes it under "update_mask"; dst is then not fit for use. allowed says which paths may change at all.
func ApplyMask(v *Violations, dst, src proto.Message, mask *fieldmaskpb.FieldMask, allowed func(path string) (why string, ok bool)) {
	if len(mask.GetPaths()) == 0 {
		v.Add("update_mask", "is required: name the fields to change, for example %q", "spec.memory_bytes")
		return
	}
	for _, path := range mask.GetPaths() {
		if why, ok := allowed(path); !ok {
			v.Add("update_mask", "%q %s", path, why)
			continue
		}
		if !copyPath(dst.ProtoReflect(), src.ProtoReflect(), strings.Split(path, ".")) {
			v.Add("update_mask", "%q names no field", path)
		}
	}
}

// copyPath makes the field at path in dst as it is in src; false when there is no such field.
func copyPath(dst, src protoreflect.Message, path []string) bool {
	fd := dst.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	if fd == nil {
		return false
	}
	if len(path) > 1 {
		if fd.Message() == nil || fd.IsList() || fd.IsMap() {
			return false
		}
		if !src.Has(fd) && !dst.Has(fd) {
			return hasPath(fd.Message(), path[1:])
		}
		return copyPath(dst.Mutable(fd).Message(), src.Get(fd).Message(), path[1:])
	}
	if !src.Has(fd) {
		dst.Clear(fd)
		return true
	}
	single := src.New()
	single.Set(fd, src.Get(fd))
	dst.Clear(fd)
	proto.Merge(dst.Interface(), single.Interface())
	return true
}

func hasPath(md protoreflect.MessageDescriptor, path []string) bool {
	fd := md.Fields().ByName(protoreflect.Name(path[0]))
	if fd == nil || len(path) == 1 {
		return fd != nil
	}
	return fd.Message() != nil && !fd.IsList() && !fd.IsMap() && hasPath(fd.Message(), path[1:])
}

// Under reports whether path is one of the roots or lies under one.
func Under(path string, roots ...string) bool {
	for _, r := range roots {
		if path == r || strings.HasPrefix(path, r+".") {
			return true
		}
	}
	return false
}
