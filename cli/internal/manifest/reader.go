package manifest

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/limiquantix/limiquantix/cli/internal/nearest"
)

const (
	maxDepth = 32
	// maxNodes bounds what aliases may blow a document up to.
	maxNodes = 100_000
)

// reader turns nodes into values that protojson takes, and notes every problem and every field named.
type reader struct {
	source   string
	problems Problems
	paths    []string
	nodes    int
}

func (r *reader) bad(n *yaml.Node, format string, args ...any) {
	r.problems = append(r.problems, Problem{Source: r.source, Line: n.Line, Text: fmt.Sprintf(format, args...)})
}

// enter follows an alias and counts the node; nil when the document is too much.
func (r *reader) enter(n *yaml.Node, depth int) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	r.nodes++
	if depth > maxDepth || r.nodes > maxNodes {
		if r.nodes <= maxNodes || r.nodes == maxNodes+1 {
			r.bad(n, "the document is nested too deep or grows too large")
		}
		return nil
	}
	return n
}

// message reads a mapping as a message at path ("" = the document). In a list path is "[]": such fields are no paths of a mask.
func (r *reader) message(n *yaml.Node, md protoreflect.MessageDescriptor, path string, depth int) any {
	if n = r.enter(n, depth); n == nil {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		r.bad(n, "%s must be a mapping of keys to values", shown(path))
		return nil
	}
	out, oneofs := map[string]any{}, map[protoreflect.Name]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		fd := field(md, key.Value)
		if fd == nil {
			r.bad(key, "unknown key %q%s", within(path, key.Value), suggest(md, path, key.Value))
			continue
		}
		name := string(fd.Name())
		if _, twice := out[name]; twice {
			r.bad(key, "key %q stands twice", within(path, key.Value))
			continue
		}
		if o := fd.ContainingOneof(); o != nil && !o.IsSynthetic() {
			if other := oneofs[o.Name()]; other != "" {
				r.bad(key, "%q and %q exclude each other", within(path, other), within(path, name))
			}
			oneofs[o.Name()] = name
		}
		out[name] = r.field(n.Content[i+1], fd, within(path, name), depth+1)
	}
	if len(n.Content) == 0 {
		r.named(path)
	}
	return out
}

func (r *reader) field(n *yaml.Node, fd protoreflect.FieldDescriptor, path string, depth int) any {
	if n = r.enter(n, depth); n == nil {
		return nil
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		r.named(path)
		return nil
	}
	switch {
	case fd.IsMap():
		r.named(path)
		return r.mapping(n, path, depth)
	case fd.IsList():
		r.named(path)
		return r.list(n, fd, path, depth)
	case fd.Message() != nil && fd.Message().ParentFile().Package() != "google.protobuf":
		return r.message(n, fd.Message(), path, depth)
	}
	r.named(path)
	return r.scalar(n, fd, path)
}

// named notes a field for the mask, unless it lies within a list.
func (r *reader) named(path string) {
	if path != "" && !strings.Contains(path, "[") {
		r.paths = append(r.paths, path)
	}
}

func (r *reader) list(n *yaml.Node, fd protoreflect.FieldDescriptor, path string, depth int) any {
	if n.Kind != yaml.SequenceNode {
		r.bad(n, "%s must be a list", shown(path))
		return nil
	}
	out := make([]any, 0, len(n.Content))
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch item = r.enter(item, depth+1); {
		case item == nil:
			return nil
		case item.Tag == "!!null":
			r.bad(item, "%s is empty", at)
		case fd.Message() != nil:
			out = append(out, r.message(item, fd.Message(), at, depth+1))
		default:
			out = append(out, r.scalar(item, fd, at))
		}
	}
	return out
}

// mapping reads a map of strings: the only kind that our messages hold.
func (r *reader) mapping(n *yaml.Node, path string, depth int) any {
	if n.Kind != yaml.MappingNode {
		r.bad(n, "%s must be a mapping of keys to values", shown(path))
		return nil
	}
	out := map[string]any{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], r.enter(n.Content[i+1], depth+1)
		if value == nil {
			return nil
		}
		if _, twice := out[key.Value]; twice {
			r.bad(key, "key %q stands twice", within(path, key.Value))
		}
		if value.Kind != yaml.ScalarNode || value.Tag != "!!str" {
			r.bad(value, "%s must be a string: put it in quotes", within(path, key.Value))
			continue
		}
		out[key.Value] = value.Value
	}
	return out
}

func field(md protoreflect.MessageDescriptor, key string) protoreflect.FieldDescriptor {
	if fd := md.Fields().ByName(protoreflect.Name(key)); fd != nil {
		return fd
	}
	return md.Fields().ByJSONName(key)
}

func suggest(md protoreflect.MessageDescriptor, path, key string) string {
	var names []string
	for i := range md.Fields().Len() {
		names = append(names, string(md.Fields().Get(i).Name()))
	}
	if near := nearest.Word(key, names); near != "" {
		return fmt.Sprintf("; did you mean %q?", within(path, near))
	}
	return "; known here: " + strings.Join(names, ", ")
}

func within(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func shown(path string) string {
	if path == "" {
		return "the document"
	}
	return path
}
