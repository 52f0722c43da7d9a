package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"connectrpc.com/connect"
)

// Info is what a controller says of itself.
type Info struct {
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	Commit      string   `json:"commit,omitempty"`
	ClusterID   string   `json:"cluster_id,omitempty"`
	APIVersions []string `json:"api_versions,omitempty"`
	StoreKind   string   `json:"store_kind,omitempty"`
}

// Info asks the controller for its version. It needs no token.
func (c *Client) Info(ctx context.Context) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	u, err := CheckServer(c.target.Server)
	if err != nil {
		return Info{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.Scheme+"://"+u.Host+"/api/v1/info", nil)
	if err != nil {
		return Info{}, err
	}
	req.Header.Set("User-Agent", c.target.UserAgent)
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return Info{}, ctx.Err()
		}
		return Info{}, connect.NewError(connect.CodeUnavailable, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Info{}, fmt.Errorf("%s/api/v1/info answered %s: is this a limiquantix controller?", c.target.Server, resp.Status)
	}
	var info Info
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&info); err != nil {
		return Info{}, fmt.Errorf("%s/api/v1/info cannot be read: %w", c.target.Server, err)
	}
	return info, nil
}
