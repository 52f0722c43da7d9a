package manifest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/limiquantix/limiquantix/cli/internal/nearest"
	"github.com/limiquantix/limiquantix/cli/internal/quantity"
)

// scalar reads one value as protojson takes it. Besides protobuf's own JSON it knows amounts ("256M") for *_bytes, rates ("100M") for *_bits_per_second, short names of enum values,
// lengths of time as Go writes them, and plain text for documents.
func (r *reader) scalar(n *yaml.Node, fd protoreflect.FieldDescriptor, path string) any {
	if n.Kind != yaml.ScalarNode {
		r.bad(n, "%s must be a single value", path)
		return nil
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		if n.Tag != "!!str" {
			r.bad(n, "%s must be a string: put it in quotes", path)
		}
		return n.Value
	case protoreflect.BoolKind:
		var b bool
		if n.Tag != "!!bool" || n.Decode(&b) != nil {
			r.bad(n, "%s must be true or false, not %q", path, n.Value)
		}
		return b
	case protoreflect.EnumKind:
		return r.enum(n, fd.Enum(), path)
	case protoreflect.BytesKind:
		return r.text(n, path)
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		f, err := strconv.ParseFloat(n.Value, 64)
		if err != nil {
			r.bad(n, "%s must be a number, not %q", path, n.Value)
		}
		return f
	case protoreflect.MessageKind:
		return r.wellKnown(n, fd.Message(), path)
	}
	return r.integer(n, fd, path)
}

func (r *reader) integer(n *yaml.Node, fd protoreflect.FieldDescriptor, path string) any {
	bits := 64
	if fd.Kind() == protoreflect.Int32Kind || fd.Kind() == protoreflect.Uint32Kind {
		bits = 32
	}
	if i, err := strconv.ParseInt(n.Value, 0, 64); err == nil {
		switch {
		case fd.Kind() == protoreflect.Uint32Kind && (i < 0 || i > 1<<32-1), bits == 32 && fd.Kind() == protoreflect.Int32Kind && i != int64(int32(i)):
			r.bad(n, "%s is out of range: %s", path, n.Value)
			return nil
		}
		return json.Number(strconv.FormatInt(i, 10))
	}
	if strings.HasSuffix(string(fd.Name()), "_bytes") {
		i, err := quantity.ParseExact(n.Value)
		if err != nil {
			r.bad(n, "%s: %v", path, err)
			return nil
		}
		return json.Number(strconv.FormatInt(i, 10))
	}
	if strings.HasSuffix(string(fd.Name()), "_bits_per_second") {
		i, err := quantity.ParseRate(n.Value)
		if err != nil {
			r.bad(n, "%s: %v", path, err)
			return nil
		}
		return json.Number(strconv.FormatInt(i, 10))
	}
	r.bad(n, "%s must be a whole number, not %q", path, n.Value)
	return nil
}

// enum takes a value's full name, or what is left of it without what all values begin with, in any case and with '-' for '_'.
func (r *reader) enum(n *yaml.Node, ed protoreflect.EnumDescriptor, path string) any {
	prefix := strings.TrimSuffix(string(ed.Values().Get(0).Name()), "UNSPECIFIED")
	word := strings.ReplaceAll(strings.ToUpper(n.Value), "-", "_")
	var short []string
	for i := range ed.Values().Len() {
		name := string(ed.Values().Get(i).Name())
		bare := strings.TrimPrefix(name, prefix)
		if word == name || word == bare {
			return name
		}
		if i > 0 {
			short = append(short, strings.ReplaceAll(strings.ToLower(bare), "_", "-"))
		}
	}
	hint := "; use one of " + strings.Join(short, ", ")
	if near := nearest.Word(n.Value, short); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	r.bad(n, "%s: unknown value %q%s", path, n.Value, hint)
	return nil
}

// text reads bytes: a plain document that begins with '#', or such a one in base64.
func (r *reader) text(n *yaml.Node, path string) any {
	if strings.HasPrefix(n.Value, "#") {
		return base64.StdEncoding.EncodeToString([]byte(n.Value))
	}
	if raw, err := base64.StdEncoding.DecodeString(n.Value); err == nil && (len(raw) == 0 || raw[0] == '#') {
		return n.Value
	}
	r.bad(n, "%s must begin with \"#cloud-config\" or \"#!\", as text or in base64", path)
	return nil
}

func (r *reader) wellKnown(n *yaml.Node, md protoreflect.MessageDescriptor, path string) any {
	if md.FullName() != "google.protobuf.Duration" {
		return n.Value // timestamps: output only, checked by protojson
	}
	d, err := time.ParseDuration(n.Value)
	if err != nil {
		r.bad(n, "%s must be a length of time like 90s or 5m, not %q", path, n.Value)
		return nil
	}
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
}
