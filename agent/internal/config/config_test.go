package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoad(t *testing.T) {
	t.Parallel()
	if c, err := Load("", nil); err != nil || c.Controllers[0] != "127.0.0.1:8081" || c.Listen != "127.0.0.1:9177" {
		t.Fatalf("%+v, %v", c, err)
	}
	path := filepath.Join(t.TempDir(), "a.yaml")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("data_dir: /d\nplugins:\n  - {name: kvm, config: {accel: tcg}}\n")
	c, err := Load(path, []string{"LIMIQUANTIX_AGENT_CONTROLLERS=a:1, b:2", "PATH=/bin", "LIMIQUANTIX_AGENT_LOG_LEVEL=debug"})
	if err != nil || c.DataDir != "/d" || len(c.Controllers) != 2 || c.Log.Level != "debug" {
		t.Fatalf("%+v, %v", c, err)
	}
	if j, err := c.Plugins[0].JSON(); err != nil || j != `{"accel":"tcg"}` {
		t.Errorf("%s, %v", j, err)
	}
	write("tunnel_address: 192.0.2.7\n")
	if c, err := Load(path, nil); err != nil || c.TunnelAddress != "192.0.2.7" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := Load(path, []string{"LIMIQUANTIX_AGENT_TUNNEL_ADDRESS=2001:db8::7"}); err != nil || c.TunnelAddress != "2001:db8::7" {
		t.Errorf("%+v, %v", c, err)
	}
	write("")
	if _, err := Load(path, nil); err != nil {
		t.Errorf("an empty file: %v", err)
	}
	for _, tc := range []struct{ yaml, env, says string }{
		{"\ncontrolers: [a:1]", "", `line 2: unknown key "controlers"; did you mean "controllers"?`},
		{"plugins:\n - {name: kvm, confg: {}}", "", `unknown key "plugins[0].confg"`},
		{"log: {levle: info}", "", `did you mean "level"`},
		{"log: {level: loud}", "", "log.level"},
		{"data_dir: here", "", "absolute"},
		{"controllers: []", "", "at least one"},
		{"controllers: [nowhere]", "", "host:port"},
		{"plugins: [{name: ../x}]", "", "plugins[0].name"},
		{"plugins: [{name: a}, {name: a}]", "", "twice"},
		{"listen: [1]", "", "line 1"},
		{"data_dir: /a\n---\ndata_dir: /b", "", "more than one"},
		{"run_dir: /" + strings.Repeat("x", 80), "", "too long"},
		{"", "LIMIQUANTIX_AGENT_DATADIR=/x", "unknown variable"},
		{"tunnel_address: node-1", "", `tunnel_address "node-1": must be an IP address`},
		{"tunnel_address: 192.0.2.7/24", "", "must be an IP address"},
		{"tunnel_address: fe80::1%eth0", "", "must be an IP address"},
		{"tunnel_address: 0.0.0.0", "", "other nodes reach"},
		{"tunnel_address: 127.0.0.1", "", "other nodes reach"},
		{"", "LIMIQUANTIX_AGENT_TUNNEL_ADDRESS=ff02::1", "other nodes reach"},
		{"tunnel_address: 2001:DB8::7", "", "must be written as 2001:db8::7"},
	} {
		write(tc.yaml)
		var env []string
		if tc.env != "" {
			env = append(env, tc.env)
		}
		if _, err := Load(path, env); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%q %q: %v, want %q", tc.yaml, tc.env, err, tc.says)
		}
	}
}
