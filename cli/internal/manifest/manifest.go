// Package manifest reads the documents of lqctl apply: YAML or JSON, each with a kind and the fields of that kind's API message. Reading is strict:
// every unknown key and wrong value is found, with its line and the nearest that would be right.
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/cli/internal/nearest"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// The kinds of documents.
const (
	KindVM            = "VM"
	KindNetwork       = "Network"
	KindPort          = "Port"
	KindSecurityGroup = "SecurityGroup"
)

// Kinds are all kinds that a document may have, in the order in which they are made: what others refer to comes first.
var Kinds = []string{KindSecurityGroup, KindNetwork, KindPort, KindVM}

// Object is what a document describes.
type Object interface {
	proto.Message
	GetMeta() *metav1.ObjectMeta
}

// empty makes an object of a kind; nil for none that is known.
func empty(kind string) Object {
	switch kind {
	case KindVM:
		return &computev1.VM{}
	case KindNetwork:
		return &networkv1.Network{}
	case KindPort:
		return &networkv1.Port{}
	case KindSecurityGroup:
		return &networkv1.SecurityGroup{}
	}
	return nil
}

// Document is one object as a user wants it.
type Document struct {
	Source string // file, for messages
	Line   int
	Kind   string
	Object Object
	// Paths are the fields that the document names, as an update mask: what it does not name it does not manage.
	Paths []string
}

// Problem is something wrong in a document.
type Problem struct {
	Source string
	Line   int
	Text   string
}

// Problems is everything wrong in a file.
type Problems []Problem

// Error lists the problems, a line each.
func (p Problems) Error() string {
	parts := make([]string, len(p))
	for i, one := range p {
		parts[i] = one.Source
		if one.Line > 0 {
			parts[i] += fmt.Sprintf(":%d", one.Line)
		}
		parts[i] += ": " + one.Text
	}
	return strings.Join(parts, "\n")
}

// Parse reads all documents of a file; source is its name. The error is Problems.
func Parse(source string, data []byte) ([]Document, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data)) // JSON is YAML
	var docs []Document
	var problems Problems
	for {
		var node yaml.Node
		err := dec.Decode(&node)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, append(problems, Problem{Source: source, Text: strings.TrimPrefix(err.Error(), "yaml: ")})
		}
		if len(node.Content) == 0 || node.Content[0].Tag == "!!null" {
			continue
		}
		doc, bad := parseDocument(source, node.Content[0])
		problems = append(problems, bad...)
		docs = append(docs, doc)
	}
	if len(problems) == 0 && len(docs) == 0 {
		problems = Problems{{Source: source, Text: "holds no document"}}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return docs, nil
}

func parseDocument(source string, root *yaml.Node) (Document, Problems) {
	r := &reader{source: source}
	doc := Document{Source: source, Line: root.Line}
	if root.Kind != yaml.MappingNode {
		r.bad(root, "a document must be a mapping with kind, meta and spec")
		return doc, r.problems
	}
	body := &yaml.Node{Kind: yaml.MappingNode, Line: root.Line}
	var kind *yaml.Node
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == "kind" {
			if kind != nil {
				r.bad(root.Content[i], "key \"kind\" stands twice")
			}
			kind = root.Content[i+1]
			continue
		}
		body.Content = append(body.Content, root.Content[i], root.Content[i+1])
	}
	switch {
	case kind == nil:
		r.bad(root, "kind is missing; add for example \"kind: VM\"")
		return doc, r.problems
	case empty(kind.Value) == nil:
		text := fmt.Sprintf("unknown kind %q", kind.Value)
		if near := nearest.Word(kind.Value, Kinds); near != "" {
			text += fmt.Sprintf("; did you mean %q?", near)
		} else {
			text += "; known: " + strings.Join(Kinds, ", ")
		}
		r.bad(kind, "%s", text)
		return doc, r.problems
	}
	doc.Kind, doc.Object = kind.Value, empty(kind.Value)
	value := r.message(body, doc.Object.ProtoReflect().Descriptor(), "", 0)
	doc.Paths = managed(r.paths)
	if len(r.problems) > 0 {
		return doc, r.problems
	}
	raw, err := json.Marshal(value)
	if err == nil {
		err = protojson.Unmarshal(raw, doc.Object)
	}
	if err != nil {
		r.bad(root, "%s", strings.TrimSpace(strings.ReplaceAll(strings.TrimPrefix(err.Error(), "proto:"), "\u00a0", " ")))
		return doc, r.problems
	}
	if doc.Object.GetMeta().GetName() == "" {
		r.bad(root, "meta.name is missing")
	}
	m := doc.Object.ProtoReflect()
	m.Clear(m.Descriptor().Fields().ByName("status"))
	return doc, r.problems
}

// outputOnly are fields that the server writes: they may stand in a document, as it prints them, and mean nothing there.
var outputOnly = []string{
	"status", "meta.id", "meta.etag", "meta.generation", "meta.create_time", "meta.update_time", "meta.delete_time",
	"meta.name", "meta.project_id", "spec.restart_generation", "spec.cloud_init.user_data_sha256",
}

func managed(paths []string) []string {
	var out []string
next:
	for _, p := range paths {
		for _, o := range outputOnly {
			if p == o || strings.HasPrefix(p, o+".") {
				continue next
			}
		}
		out = append(out, p)
	}
	return out
}
