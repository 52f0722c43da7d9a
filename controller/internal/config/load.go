package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// EnvPrefix begins every environment variable that sets a key.
const EnvPrefix = "LIMIQUANTIX_CONTROLLER_"

// EnvFile names the configuration file where no flag does.
const EnvFile = EnvPrefix + "CONFIG"

// Load reads the file at path ("" = none) over Default and the environment over that, as os.Environ gives it. It does not validate: flags come
// later; see Validate. An unknown key, in either, is an error that says where it stands and which key is nearest.
func Load(path string, environ []string) (Config, error) {
	c := Default()
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return c, fmt.Errorf("read configuration: %w", err)
		}
		if err := parse(data, &c); err != nil {
			return c, fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := applyEnv(&c, environ); err != nil {
		return c, err
	}
	return c, nil
}

func parse(data []byte, c *Config) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return err
	}
	if len(doc.Content) == 0 {
		return nil // empty, or comments alone
	}
	if err := unknownKeys(doc.Content[0], reflect.TypeFor[Config](), ""); err != nil {
		return err
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(c); err != nil {
		return err
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return errors.New("holds more than one document")
	}
	return nil
}

// unknownKeys finds every key of the node that the type does not have.
func unknownKeys(n *yaml.Node, t reflect.Type, path string) error {
	if t.Kind() != reflect.Struct {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		if n.Tag == "!!null" {
			return nil
		}
		where := strings.TrimSuffix(path, ".")
		if where == "" {
			where = "the configuration"
		}
		return fmt.Errorf("line %d: %s must be a mapping of keys to values", n.Line, where)
	}
	var found []error
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field, names := fieldByTag(t, key.Value)
		if field == nil {
			found = append(found, fmt.Errorf("line %d: unknown key %q%s", key.Line, path+key.Value, suggest(path, key.Value, names)))
			continue
		}
		found = append(found, unknownKeys(value, field.Type, path+key.Value+"."))
	}
	return errors.Join(found...)
}

func fieldByTag(t reflect.Type, tag string) (*reflect.StructField, []string) {
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Tag.Get("yaml") == tag {
			return &f, nil
		}
		names = append(names, f.Tag.Get("yaml"))
	}
	return nil, names
}

func suggest(path, name string, names []string) string {
	if near := Nearest(name, names); near != "" {
		return fmt.Sprintf("; did you mean %q?", path+near)
	}
	slices.Sort(names)
	return "; known here: " + strings.Join(names, ", ")
}

// applyEnv sets what the environment says. Lists are separated by commas; an empty value sets the empty value.
func applyEnv(c *Config, environ []string) error {
	fields := map[string]reflect.Value{}
	leaves(reflect.ValueOf(c).Elem(), EnvPrefix, fields)
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	var failed []error
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, EnvPrefix) || name == EnvFile {
			continue
		}
		field, ok := fields[name]
		if !ok {
			failed = append(failed, fmt.Errorf("environment: unknown variable %s%s", name, suggest("", name, slices.Clone(names))))
			continue
		}
		if err := set(field, value); err != nil {
			failed = append(failed, fmt.Errorf("environment: %s: %w", name, err))
		}
	}
	return errors.Join(failed...)
}

func leaves(v reflect.Value, prefix string, into map[string]reflect.Value) {
	for i := range v.NumField() {
		name := prefix + strings.ToUpper(v.Type().Field(i).Tag.Get("yaml"))
		if f := v.Field(i); f.Kind() == reflect.Struct {
			leaves(f, name+"_", into)
		} else {
			into[name] = f
		}
	}
}

func set(field reflect.Value, value string) error {
	switch {
	case field.Kind() == reflect.String:
		field.SetString(value)
	case field.Kind() == reflect.Slice:
		var list []string
		for part := range strings.SplitSeq(value, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
		field.Set(reflect.ValueOf(list))
	case value == "":
		field.SetZero()
	default:
		if err := yaml.Unmarshal([]byte(value), field.Addr().Interface()); err != nil {
			return fmt.Errorf("cannot read %q as %s", value, field.Type())
		}
	}
	return nil
}
