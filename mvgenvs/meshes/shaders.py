"""The renderer's shaders (GLSL 3.30)."""

VERTEX_SHADER = """
#version 330
uniform mat4 clip_from_world;
in vec3 position;
in vec3 normal;
in vec2 uv;
in vec4 paint;
out vec3 world;
out vec3 world_normal;
out vec2 texel;
out vec4 tint;
void main() {
    world = position;
    world_normal = normal;
    texel = uv;
    tint = paint;
    gl_Position = clip_from_world * vec4(position, 1.0);
}
"""

# Light from the sky and, weaker, from the ground, and two lamps: matt, two-sided, in display values.
COLOUR_SHADER = """
#version 330
uniform sampler2D surface;
uniform vec3 eye;
uniform float solid;
uniform bool draw_solid;
uniform bool lit;
in vec3 world;
in vec3 world_normal;
in vec2 texel;
in vec4 tint;
out vec4 colour;
const vec3 MAIN_LAMP = normalize(vec3(0.33, 0.79, 0.51));
const vec3 FILL_LAMP = normalize(vec3(-0.75, 0.45, -0.48));
const float WHITEST = 0.98;  // pure white is the background's
void main() {
    vec4 paint = tint * texture(surface, texel);
    if (paint.a < 0.02 || (paint.a >= solid) != draw_solid) discard;
    float coverage = draw_solid ? 1.0 : paint.a;
    if (!lit) {
        colour = vec4(paint.rgb, coverage);
        return;
    }
    vec3 n = normalize(world_normal);
    if (dot(n, eye - world) < 0.0) n = -n;
    float sky = mix(0.43, 0.70, 0.5 + 0.5 * n.y);
    float light = sky + 0.37 * max(dot(n, MAIN_LAMP), 0.0) + 0.17 * max(dot(n, FILL_LAMP), 0.0);
    colour = vec4(min(paint.rgb * light, WHITEST), coverage);
}
"""

DEPTH_SHADER = """
#version 330
uniform sampler2D surface;
uniform vec3 eye;
uniform vec3 forward;
uniform float surface_opacity;
in vec3 world;
in vec2 texel;
in vec4 tint;
out float depth;
void main() {
    if (tint.a * texture(surface, texel).a < surface_opacity) discard;
    depth = dot(world - eye, forward);
}
"""
