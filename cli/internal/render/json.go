package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// JSON prints a message as protobuf maps it to JSON, indented, always the same way.
func JSON(w io.Writer, m proto.Message) error {
	raw, err := marshal(m)
	if err != nil {
		return err
	}
	return indent(w, raw)
}

// JSONLine prints a message as one line of JSON.
func JSONLine(w io.Writer, m proto.Message) error {
	raw, err := marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", raw)
	return err
}

// JSONList prints {"items": [...]}.
func JSONList[M proto.Message](w io.Writer, items []M) error {
	raw, err := list(items)
	if err != nil {
		return err
	}
	return indent(w, raw)
}

// YAML prints what JSON prints, as YAML.
func YAML(w io.Writer, m proto.Message) error {
	raw, err := marshal(m)
	if err != nil {
		return err
	}
	return WriteYAML(w, raw)
}

// YAMLList prints what JSONList prints, as YAML.
func YAMLList[M proto.Message](w io.Writer, items []M) error {
	raw, err := list(items)
	if err != nil {
		return err
	}
	return WriteYAML(w, raw)
}

// marshal makes compact JSON; protojson itself varies its white space on purpose.
func marshal(m proto.Message) ([]byte, error) {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func list[M proto.Message](items []M) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(`{"items":[`)
	for i, m := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		raw, err := marshal(m)
		if err != nil {
			return nil, err
		}
		b.Write(raw)
	}
	b.WriteString("]}")
	return b.Bytes(), nil
}

func indent(w io.Writer, raw []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

// WriteYAML prints JSON as YAML, keys in the same order.
func WriteYAML(w io.Writer, raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	node, err := yamlNode(dec)
	if err != nil {
		return err
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(node); err != nil {
		return err
	}
	return enc.Close()
}

func yamlNode(dec *json.Decoder) (*yaml.Node, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch v := tok.(type) {
	case json.Delim:
		node := &yaml.Node{Kind: yaml.SequenceNode}
		if v == '{' {
			node.Kind = yaml.MappingNode
		}
		for dec.More() {
			child, err := yamlNode(dec)
			if err != nil {
				return nil, err
			}
			node.Content = append(node.Content, child)
		}
		if len(node.Content) == 0 {
			node.Style = yaml.FlowStyle
		}
		_, err := dec.Token() // the closing delimiter
		return node, err
	case string:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v}, nil
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: v.String()}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(v)}, nil
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
}
