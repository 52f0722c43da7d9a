// Command limiquantix-conformance holds a driver plugin, in whatever language it is written, to the contract:
//
//	limiquantix-conformance -config driver.json DIRECTORY
//
// DIRECTORY holds the plugin's binary and its plugin.json. The config file is optional; see Config. Exit status: 0 all passed, 1 a check failed, 2 the plugin
// could not be checked.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance"
	"github.com/limiquantix/limiquantix/sdk/conformance/guest"
	"github.com/limiquantix/limiquantix/sdk/host"
)

// Config is the tool's configuration file. All of it is optional.
type Config struct {
	Config  json.RawMessage   `json:"config"`  // the plugin's own configuration
	Secrets map[string]string `json:"secrets"` // by property name
	Compute struct {
		Spec         json.RawMessage `json:"spec"` // a limiquantix.driver.v1.DomainSpec; its name is set by the checks
		GuestReboots bool            `json:"guest_reboots"`
		GuestSpeaks  bool            `json:"guest_speaks"`
	} `json:"compute"`
	Storage struct {
		Parameters  map[string]string `json:"parameters"`
		Secrets     map[string]string `json:"secrets"`
		VolumeBytes int64             `json:"volume_bytes"`
		// WriteCommand writes to an attached volume, see commands.go; without it files, block devices and qcow2 are written to.
		WriteCommand []string `json:"write_command"`
		// ObjectsCommand prints what the backend holds, a name a line.
		ObjectsCommand []string `json:"objects_command"`
	} `json:"storage"`
	Network struct {
		Specs []json.RawMessage `json:"specs"` // limiquantix.driver.v1.NetworkSpec, at least two that can be there together
		// Packets makes the checks send real packets, see conformance.PacketOptions; run the tool under "unshare --net --mount", as root. {} = with the usual counts.
		Packets *struct {
			Policies    int    `json:"policies"`
			Seed        uint64 `json:"seed"`
			Ports       int    `json:"ports"`
			Updates     int    `json:"updates"`
			Kills       int    `json:"kills"`
			OVSDatabase string `json:"ovs_database"` // as ovs-vsctl's --db
		} `json:"packets"`
	} `json:"network"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	fs := flag.NewFlagSet("limiquantix-conformance", flag.ContinueOnError)
	fs.SetOutput(errs)
	file := fs.String("config", "", "JSON file: config, secrets, compute, storage, network")
	only := fs.String("only", "", "patterns of checks to run, comma-separated, for example 'compute/create/*'")
	skip := fs.String("skip", "", "patterns of checks not to run")
	list := fs.Bool("list", false, "list the checks with the contract's sentences and exit")
	asJSON := fs.Bool("json", false, "print one JSON object per check")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if *list {
		w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
		for _, c := range conformance.Checks() {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", c.Name, c.Contract)
		}
		_ = w.Flush()
		return 0
	}
	if fs.NArg() != 1 {
		_, _ = fmt.Fprintln(errs, "usage: limiquantix-conformance [flags] DIRECTORY")
		return 2
	}
	o, err := options(fs.Arg(0), *file)
	if err != nil {
		_, _ = fmt.Fprintln(errs, "limiquantix-conformance:", err)
		return 2
	}
	o.Only, o.Skip = split(*only), split(*skip)
	rep := &reporter{out: out, json: *asJSON, count: map[conformance.Outcome]int{}}
	if err := conformance.Run(ctx, o, rep.report); err != nil {
		_, _ = fmt.Fprintln(errs, "limiquantix-conformance:", err)
		return 2
	}
	return rep.end(ctx)
}

func options(dir, file string) (o conformance.Options, err error) {
	o.Plugin = host.Spec{Dir: dir}
	if file == "" {
		return o, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return o, err
	}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	var c Config
	if err := dec.Decode(&c); err != nil {
		return o, fmt.Errorf("%s: %w", file, err)
	}
	o.Plugin.ConfigJSON, o.Plugin.Secrets = string(c.Config), secrets(c.Secrets)
	o.Compute.GuestReboots, o.Compute.GuestSpeaks = c.Compute.GuestReboots, c.Compute.GuestSpeaks
	o.Storage = conformance.StorageOptions{Parameters: c.Storage.Parameters, Secrets: secrets(c.Storage.Secrets), VolumeBytes: c.Storage.VolumeBytes}
	if argv := c.Storage.WriteCommand; len(argv) > 0 {
		o.Storage.Write = writeBy(argv)
	}
	if argv := c.Storage.ObjectsCommand; len(argv) > 0 {
		o.Storage.Objects = objectsBy(argv)
	}
	if len(c.Compute.Spec) > 0 {
		spec := &driverv1.DomainSpec{}
		if err := protojson.Unmarshal(c.Compute.Spec, spec); err != nil {
			return o, fmt.Errorf("%s: compute.spec: %w", file, err)
		}
		o.Compute.Spec = func(name string) *driverv1.DomainSpec {
			s := proto.CloneOf(spec)
			s.Name = name
			return s
		}
	}
	if n := len(c.Network.Specs); n > 0 {
		specs := make([]*driverv1.NetworkSpec, n)
		for i, raw := range c.Network.Specs {
			specs[i] = &driverv1.NetworkSpec{}
			if err := protojson.Unmarshal(raw, specs[i]); err != nil {
				return o, fmt.Errorf("%s: network.specs[%d]: %w", file, i, err)
			}
		}
		if n < 2 {
			return o, errors.New("network.specs: at least two are needed")
		}
		o.Network.Spec = func(i int) *driverv1.NetworkSpec { return proto.CloneOf(specs[i%n]) }
	}
	if p := c.Network.Packets; p != nil {
		o.Network.Packets = &conformance.PacketOptions{
			Policies: p.Policies, Seed: p.Seed, Ports: p.Ports, Updates: p.Updates, Kills: p.Kills, OVS: guest.OVS{Database: p.OVSDatabase},
		}
	}
	return o, nil
}

func secrets(in map[string]string) map[string][]byte {
	out := make(map[string][]byte, len(in))
	for k, v := range in {
		out[k] = []byte(v)
	}
	return out
}

func split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// reporter prints results as they come.
type reporter struct {
	out   io.Writer
	json  bool
	count map[conformance.Outcome]int
}

func (r *reporter) report(res conformance.Result) {
	r.count[res.Outcome]++
	if r.json {
		_ = json.NewEncoder(r.out).Encode(map[string]any{
			"check": res.Check.Name, "contract": res.Check.Contract, "outcome": res.Outcome, "detail": res.Detail, "seconds": res.Took.Seconds(),
		})
		return
	}
	_, _ = fmt.Fprintf(r.out, "%-4s  %-48s  %7s\n", res.Outcome, res.Check.Name, res.Took.Round(time.Millisecond))
	switch res.Outcome {
	case conformance.Failed:
		_, _ = fmt.Fprintf(r.out, "      contract: %s\n      %s\n", res.Check.Contract, strings.ReplaceAll(res.Detail, "\n", "\n      "))
	case conformance.Skipped:
		_, _ = fmt.Fprintf(r.out, "      %s\n", res.Detail)
	}
}

func (r *reporter) end(ctx context.Context) int {
	if !r.json {
		_, _ = fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.count[conformance.Passed], r.count[conformance.Failed], r.count[conformance.Skipped])
	}
	switch {
	case ctx.Err() != nil, r.count[conformance.Passed]+r.count[conformance.Failed] == 0:
		return 2
	case r.count[conformance.Failed] > 0:
		return 1
	}
	return 0
}
