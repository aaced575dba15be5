{{/* Pieces of a pod, for the Deployment and for both roles of a LeaderWorkerSet. */}}

{{- define "capo.podMetadata" -}}
labels:
  {{- include "capo.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
  {{- with .root.Values.podLabels }}{{ toYaml . | nindent 2 }}{{ end }}
annotations:
  checksum/config: {{ printf "%s%s" (include "capo.settings" .root) .root.Values.judgeTemplate | sha256sum }}
  {{- with .root.Values.podAnnotations }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end -}}

{{- define "capo.podSettings" -}}
serviceAccountName: {{ include "capo.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add (default 30 .Values.config.drain_seconds | float64 | ceil | int) (int .Values.preStopSeconds) 20 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- if .Values.topologySpreadConstraints }}
  {{- toYaml .Values.topologySpreadConstraints | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "capo.selector" . | nindent 8 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
volumes:
  - name: config
    configMap:
      name: {{ include "capo.fullname" . }}
  - name: tmp
    emptyDir: {}
  - name: shared-memory
    emptyDir:
      medium: Memory
      sizeLimit: {{ .Values.sharedMemory.size }}
  - name: cache
    {{- if or .Values.modelCache.persistent .Values.modelCache.existingClaim }}
    persistentVolumeClaim:
      claimName: {{ include "capo.claim" . }}
    {{- else }}
    emptyDir: {}
    {{- end }}
  {{- with .Values.secrets.apiKeys.name }}
  - name: api-keys
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
  {{- with .Values.secrets.tls.name }}
  - name: tls
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
  {{- with .Values.extraVolumes }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end -}}

{{- define "capo.containerSettings" -}}
image: {{ include "capo.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
env:
  - name: CAPO_CONFIG
    value: /etc/capo/capo.toml
  - name: CAPO_HOST
    value: "0.0.0.0"
  - name: CAPO_PORT
    value: "8000"
  {{- include "capo.structured" . | nindent 2 }}
  {{- with .Values.secrets.hubToken }}{{ if .name }}
  - name: HF_TOKEN
    valueFrom:
      secretKeyRef: { name: {{ .name }}, key: {{ .key }} }
  {{- end }}{{ end }}
  {{- with .Values.secrets.nonce }}{{ if .name }}
  - name: CAPO_NONCE_SECRET
    valueFrom:
      secretKeyRef: { name: {{ .name }}, key: {{ .key }} }
  {{- end }}{{ end }}
  {{- with .Values.secrets.upstreamKey }}{{ if .name }}
  - name: CAPO_UPSTREAM_API_KEY
    valueFrom:
      secretKeyRef: { name: {{ .name }}, key: {{ .key }} }
  {{- end }}{{ end }}
  {{- with .Values.secrets.resultCache }}{{ if .name }}
  - name: CAPO_RESULT_CACHE
    valueFrom:
      secretKeyRef: { name: {{ .name }}, key: {{ .key }} }
  {{- end }}{{ end }}
  {{- with .Values.extraEnv }}{{ toYaml . | nindent 2 }}{{ end }}
{{- with .Values.extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  requests: {{- toYaml .Values.resources.requests | nindent 4 }}
    {{- if .Values.gpu.enabled }}
    {{ .Values.gpu.resource }}: {{ .Values.gpu.count }}
    {{- end }}
  limits: {{- toYaml .Values.resources.limits | nindent 4 }}
    {{- if .Values.gpu.enabled }}
    {{ .Values.gpu.resource }}: {{ .Values.gpu.count }}
    {{- end }}
volumeMounts:
  - { name: config, mountPath: /etc/capo, readOnly: true }
  - { name: tmp, mountPath: /tmp }
  - { name: shared-memory, mountPath: /dev/shm }
  - { name: cache, mountPath: /cache }
  {{- if .Values.secrets.apiKeys.name }}
  - { name: api-keys, mountPath: /etc/capo-keys, readOnly: true }
  {{- end }}
  {{- if .Values.secrets.tls.name }}
  - { name: tls, mountPath: /etc/capo-tls, readOnly: true }
  {{- end }}
  {{- with .Values.extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end -}}

{{/* The container that answers requests. */}}
{{- define "capo.serving" -}}
ports:
  - name: http
    containerPort: 8000
startupProbe:
  {{- include "capo.probe" (dict "root" . "path" "/health/ready") | nindent 2 }}
  failureThreshold: {{ div (int .Values.probes.startupSeconds) (int .Values.probes.periodSeconds) }}
readinessProbe:
  {{- include "capo.probe" (dict "root" . "path" "/health/ready") | nindent 2 }}
  failureThreshold: 2
livenessProbe:
  {{- include "capo.probe" (dict "root" . "path" "/health/live") | nindent 2 }}
  failureThreshold: 6
lifecycle:
  preStop:
    exec:
      command: [sleep, {{ .Values.preStopSeconds | quote }}]
{{- end -}}
